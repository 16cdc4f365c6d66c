"""The folder of a run: whose it is, and which of its parts are finished."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from kdhash.config import LOCATIONS, ConfigError, flat

CONFIG_FILE = "config.json"
DONE_FILE = "done.json"
STARTED_FILE = "started.json"


def claim(workdir: str | Path, config: ConfigDict) -> Path:
    """Makes `workdir` this config's. Raises ConfigError listing the fields in which an earlier run's config differs."""
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / CONFIG_FILE
    now = {name: value for name, value in flat(config).items() if name not in LOCATIONS}
    if now.get("features.dtype") == "float32":
        del now["features.dtype"]  # what it was before there was a choice: older workdirs go on
    if path.exists():
        before = json.loads(path.read_text())
        missing = "<absent>"
        differing = [
            f"  {name}: {before.get(name, missing)!r} there, {now.get(name, missing)!r} now"
            for name in sorted(before.keys() | now.keys())
            if before.get(name, missing) != now.get(name, missing)
        ]
        if differing:
            raise ConfigError(
                f"workdir {workdir} was made with another config; choose a new --workdir, or set these back:\n"
                + "\n".join(differing)
            )
    write_json(path, now)
    return workdir


def fingerprint(*parts: Any) -> str:
    """A sha256 over anything JSON can hold: what a stage's output depends on."""
    plain = [flat(part) if isinstance(part, ConfigDict) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def finished(folder: Path, inputs: str) -> dict[str, Any] | None:
    """What `finish` noted, where the folder's work is complete and its inputs are the same; else None."""
    path = folder / DONE_FILE
    if not path.exists():
        return None
    done = json.loads(path.read_text())
    return done["notes"] if done["inputs"] == inputs else None


def begin(folder: Path, inputs: str) -> Path:
    """Prepares `folder` for work on `inputs`: half-done work on the same inputs stays, any other is removed, and said so."""
    started = folder / STARTED_FILE
    if folder.exists() and (not started.exists() or json.loads(started.read_text())["inputs"] != inputs):
        print(
            f"{folder} was made from other inputs (data, weights, devices or kdhash changed): made anew",
            flush=True,
        )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(started, {"inputs": inputs})
    return folder


def finish(folder: Path, inputs: str, notes: dict[str, Any]) -> dict[str, Any]:
    """Marks the folder's work as complete; to be called when all its files are in place."""
    write_json(folder / DONE_FILE, {"inputs": inputs, "notes": notes})
    return notes


def write_json(path: Path, value: Any) -> None:
    """By a temporary name, then renamed: a reader sees the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    os.replace(temporary, path)
