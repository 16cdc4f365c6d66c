"""Stand-ins for the commands that the launchers call: they note what they are told, and do as little of it as a test needs."""

import os
import sys
from pathlib import Path

from absl import flags

import kdhash.main  # noqa: F401 - defines the flags
from tests.processes.starting import ENVIRONMENT, ROOT

LAUNCH = ROOT / "launch"
TOOLS = Path(sys.executable).parent
SMALL = "tests/processes/small_runs.py:pretrain"


def stand_in(folder: Path, name: str, script: str) -> None:
    """A command of this name, on the PATH of `environment`, which notes its arguments and then does what `script` says."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    # a line a call, its arguments divided by a character that none has
    note = f"""(IFS=$'\\x1f'; printf '%s\\n' "${{*//$'\\n'/$'\\x1e'}}") >> {folder}/{name}.calls"""
    file.write_text(f"#!/usr/bin/env bash\n{note}\n{script}\n")
    file.chmod(0o755)


def calls(folder: Path, name: str) -> list[list[str]]:
    """The arguments of every call of a stand-in."""
    file = folder / f"{name}.calls"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [line.replace("\x1e", "\n").split("\x1f") for line in lines]


def python_of_tests(file: Path) -> None:
    """A `python` that runs `python -m MODULE ...` as these tests do."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'#!/bin/sh\nshift\nexec "{sys.executable}" -m tests.processes.light "$@"\n')
    file.chmod(0o755)


def environment(folder: Path, **others: object) -> dict[str, str]:
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    return ENVIRONMENT | path | {key: str(value) for key, value in others.items()}


def assert_known_flags(arguments: list[str]) -> None:
    names = [argument.split("=")[0].removeprefix("--") for argument in arguments if argument.startswith("--")]
    assert "config" in names
    assert "workdir" in names
    for name in names:
        assert name.startswith("config.") or name in flags.FLAGS, name
