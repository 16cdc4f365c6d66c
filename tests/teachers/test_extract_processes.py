"""Extraction as its own process: killed with SIGKILL, shared by several, watched for memory."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("extraction_run.py")
ENVIRONMENT = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}


def start(folder, *arguments):
    command = [sys.executable, str(PROGRAM), str(folder), *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The cache of a run that nothing disturbed, and its teacher beside it."""
    folder = tmp_path_factory.mktemp("extraction") / "whole"
    with start(folder) as run:
        assert run.wait(timeout=120) == 0
    return folder


def test_killed_at_any_moment_it_ends_in_the_same_cache(undisturbed):
    folder = undisturbed.parent / "killed"
    for moment in ("write0", "write3", "write8", "running", "manifest"):
        with start(folder, "--hang", moment) as run:
            if moment == "running":  # between two shards, or inside one: wherever it is
                deadline = time.monotonic() + 60
                while len(list(folder.glob("tiny-augment1-*/*.npz"))) < 5 and time.monotonic() < deadline:
                    time.sleep(0.001)
            else:
                assert run.stdout.readline() == "hanging\n"
            run.kill()
        if moment == "write3":
            assert len(list(folder.glob("*/*.tmp.npz"))) == 1  # the one before is gone
    with start(folder) as run:
        assert run.wait(timeout=120) == 0
    assert contents(folder) == contents(undisturbed)  # and so no temporary file is left


def test_two_processes_make_the_same_cache(undisturbed):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    folder = undisturbed.parent / "shared"
    runs = [start(folder, "--process", port, "2", str(index)) for index in range(2)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    for run in runs:
        run.stdout.close()
    assert contents(folder) == contents(undisturbed)


def test_memory_does_not_grow_with_the_data_set(undisturbed, tmp_path):
    with start(tmp_path, "--memory") as run:
        grown = float(run.communicate(timeout=120)[0])
    assert grown < 40, f"peak memory grew by {grown:.0f} MiB; all pictures are 158 MiB"
