"""The folder of a run: whose it is, and which of its parts are finished."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import kdhash
from kdhash.config import NOT_COMPUTED, ConfigError, flat
from kdhash.data import Protocol, load_protocol, save_protocol
from kdhash.data.protocols import PARTS

CONFIG_FILE = "config.json"
VERSION = "kdhash"  # beside the fields in that file: another version's numbers are others
PROTOCOL = "protocol"
DONE_FILE = "done.json"
STARTED_FILE = "started.json"


def claim(workdir: str | Path, config: ConfigDict) -> Path:
    """Makes `workdir` this config's and this version's. Raises ConfigError naming an earlier run's version, or listing the fields
    in which its config differs, and then changes nothing."""
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / CONFIG_FILE
    now = computed(config)
    if path.exists():
        before = {name: value for name, value in json.loads(path.read_text()).items() if _counts(name)}
        made_by = before.pop(VERSION, kdhash.__version__)  # not told by the first ones, whose stages tell it
        if made_by != kdhash.__version__:
            raise ConfigError(
                f"workdir {workdir} was made by kdhash {made_by}, and this is {kdhash.__version__}, whose numbers are others; "
                "choose a new --workdir, remove this one, or install that version"
            )
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
    else:
        write_json(path, now | {VERSION: kdhash.__version__})
    return workdir


def computed(config: ConfigDict) -> dict[str, object]:
    """The fields of a config that results depend on, by their dotted names."""
    now = {name: value for name, value in flat(config).items() if _counts(name)}
    for name in ("dtype", "features.dtype"):
        if now.get(name) == "float32":
            del now[name]  # what it was before there was a choice
    return {name: value for name, value in now.items() if not (name.endswith(".microbatches") and value == 1)}


def _counts(name: str) -> bool:
    return name.split(".")[0] not in NOT_COMPUTED


def keep_protocol(workdir: Path, protocol: Protocol) -> Protocol:
    """The split that `workdir` was begun with, which must be `protocol`, that of the data as they are now: tomorrow's queries are
    today's. A new workdir keeps it. Raises ConfigError that says what has changed, and then changes nothing."""
    base = workdir / PROTOCOL
    if not base.with_name(f"{PROTOCOL}.json").exists():  # written last
        save_protocol(protocol, base)
        return protocol
    try:
        kept = load_protocol(base)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(
            f"the split that workdir {workdir} was begun with is damaged: {error}; choose a new --workdir"
        ) from error
    differing = []
    if kept.fingerprint != protocol.fingerprint:
        differing.append(f"  data: {kept.fingerprint[:12]} there, {protocol.fingerprint[:12]} now")
    for part in PARTS:
        before, now = (getattr(one, part) for one in (kept, protocol))
        if len(before) != len(now):
            differing.append(f"  {part}: {len(before)} rows there, {len(now)} now")
        elif (before != now).any():
            differing.append(f"  {part}: as many rows, but other ones")
    if differing:
        raise ConfigError(
            f"the data or the split have changed since workdir {workdir} was begun; choose a new --workdir, or bring the data "
            "back:\n" + "\n".join(differing)
        )
    return kept


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


def begin(folder: Path, inputs: str, hardware: str = "") -> Path:
    """Prepares `folder` for work on `inputs`: half-done work on the same inputs stays, any other is removed. Says so, and where
    work goes on with other `hardware` than it was begun with."""
    started = folder / STARTED_FILE
    before = json.loads(started.read_text()) if started.exists() else {}
    if folder.exists() and before.get("inputs") != inputs:
        print(f"{folder} was made from other inputs (data, weights or kdhash changed): made anew", flush=True)
        shutil.rmtree(folder)
    elif before.get("hardware", hardware) != hardware:
        print(
            f"{folder} was begun on {before['hardware']} and goes on with {hardware}: the same within rounding, not bit for bit",
            flush=True,
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(started, {"inputs": inputs, "hardware": hardware})
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
