"""One writer of an index at a time; folders that are built beside their place."""

import contextlib
import fcntl
import glob
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

TIMEOUT = 60.0  # seconds


class IndexBusy(TimeoutError):
    """Another process writes to the index."""


@contextlib.contextmanager
def write_lock(folder: Path, timeout: float = TIMEOUT) -> Iterator[None]:
    """Holds `folder`/lock, which ends with the process, however it ends. Waits up to `timeout` seconds for another writer.

    Raises IndexBusy, which names the process that holds it.
    """
    # not through open(): the file must not be emptied before it is ours
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + timeout
        while not _taken(descriptor):
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "another process"
                raise IndexBusy(
                    f"{folder} is being written to by {holder}; waited {timeout:g} s, try again later or with a longer --timeout"
                )
            time.sleep(0.02)
        os.ftruncate(descriptor, 0)
        os.pwrite(
            descriptor, f"process {os.getpid()} ({' '.join(sys.argv)[:500]})\n".encode(errors="replace"), 0
        )
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def folder_beside(target: Path, doing: str) -> Iterator[Path]:
    """A new folder beside `target`, to be renamed to it; where it is not, it is removed. So are those of processes that were
    killed while `doing` the same."""
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.{doing}-"
    for left in target.parent.glob(glob.escape(prefix) + "*"):
        with contextlib.suppress(OSError), write_lock(left, timeout=0):
            shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        with write_lock(folder):
            os.chmod(folder, 0o755)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
