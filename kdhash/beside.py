"""Folders beside workdirs: what any run there may use again, and anybody may remove. Imports nothing of kdhash."""

import os
import stat
from pathlib import Path


def place_of(folder: str, workdir: str | Path, name: str) -> Path | None:
    """`folder`; where that is '', `name` beside the workdir; None for 'off', and where one cannot write beside the workdir or
    another user made it there in a folder that all can write to, such as /tmp."""
    if folder == "off":
        return None
    if folder:
        return Path(folder)
    beside = Path(os.path.abspath(workdir)).parent
    place = beside / name
    if beside.exists() and (not os.access(beside, os.W_OK) or _of_a_stranger(place)):
        return None
    return place


def _of_a_stranger(place: Path) -> bool:
    return (
        place.exists()
        and bool(place.parent.stat().st_mode & stat.S_IWOTH)
        and place.stat().st_uid != os.getuid()
    )
