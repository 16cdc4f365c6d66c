"""The files of a folder, mapped into memory: sizes are checked at opening, contents (sha256) when a file is first used."""

import hashlib
import io
import json
import math
import mmap
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

# name -> {"bytes": size, "sha256": hex}, as manifests hold them
FileFacts = Mapping[str, Mapping[str, Any]]


class DamagedFile(ValueError):
    """A file that is not what its manifest says: truncated, changed or missing."""


class MappedFolder:
    """The files of `folder` that `files` lists. Maps stay valid after files are removed. Safe for many threads.

    check: whether contents are compared with their sha256 at first use.  known: the same folder, mapped before; files that have
    not changed since are not mapped and not checked again. Raises FileNotFoundError for a file that is not there and
    DamagedFile, which name it, for one of another size.
    """

    def __init__(
        self, folder: Path, files: FileFacts, check: bool = True, known: "MappedFolder | None" = None
    ):
        self.folder, self._files, self._check = folder, files, check
        self._sound: set[str] = set()
        self._lock = threading.Lock()
        self._memory: dict[str, memoryview] = {}
        self._arrays: dict[str, np.ndarray] = {}
        for name, facts in files.items():
            if Path(name).name != name:
                raise DamagedFile(f"{folder / 'manifest.json'} lists {name!r}, which is no plain file name")
            if known is not None and known._files.get(name) == facts:
                self._memory[name] = known._memory[name]
                self._sound |= known._sound & {name}
            else:
                self._memory[name] = _map_file(folder / name, facts)

    def __contains__(self, name: str) -> bool:
        return name in self._memory

    def memory(self, name: str, check: bool | None = None) -> memoryview:
        """A file's bytes. Raises DamagedFile where they are not those of the manifest; ValueError for a file not listed."""
        if name not in self._memory:
            raise ValueError(f"{self.folder} has no {name}")
        memory = self._memory[name]
        if (self._check if check is None else check) and name not in self._sound:
            with self._lock:
                if (
                    name not in self._sound
                    and hashlib.sha256(memory).hexdigest() != self._files[name]["sha256"]
                ):
                    raise DamagedFile(
                        f"{self.folder / name} has changed since it was written: its sha256 is not that of the manifest; "
                        "bring the file back from a copy, or build the folder anew"
                    )
                self._sound.add(name)
        return memory

    def array(self, name: str) -> np.ndarray:
        """A `.npy` file, as a read-only view of the file."""
        if name not in self._arrays:
            memory = self.memory(name)
            try:
                self._arrays[name] = _read_array(memory)
            except ValueError as error:
                raise DamagedFile(
                    f"{self.folder / name} is no array as np.save writes it ({error})"
                ) from None
        return self._arrays[name]

    def table(self, name: str) -> Any:
        """An Arrow IPC file as a pyarrow.Table that reads from the file."""
        import pyarrow as pa

        try:
            return pa.ipc.open_file(pa.py_buffer(self.memory(name))).read_all()
        except pa.ArrowInvalid as error:
            raise DamagedFile(f"{self.folder / name} is no Arrow file ({error})") from None


def _read_array(memory: memoryview) -> np.ndarray:
    stream = io.BytesIO(memory[:4096])
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("another version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if fortran or stream.tell() + math.prod(shape) * dtype.itemsize != len(memory):
        raise ValueError("another size")
    if not math.prod(shape):
        return np.empty(shape, dtype)
    return np.frombuffer(memory, dtype, offset=stream.tell()).reshape(shape)


def _map_file(path: Path, facts: Mapping[str, Any]) -> memoryview:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != facts["bytes"]:
            what = "truncated" if size < facts["bytes"] else "longer than it was"
            raise DamagedFile(f"{path} is {what}: {size:,} bytes, the manifest says {facts['bytes']:,}")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")


def file_facts(path: Path) -> dict[str, Any]:
    """{"bytes", "sha256"} of a file."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": digest}


def read_manifest(
    folder: Path, form: str, made_by: str, fields: Mapping[str, type] | None = None
) -> dict[str, Any]:
    """`folder`/manifest.json, if it is of the format `form`, version 1.

    fields: those that it must have, if it was written by `write_manifest`; its checksum is compared and taken off. Raises
    FileNotFoundError (it says that `made_by` makes such a folder), ValueError for another format or version, DamagedFile
    where it is truncated or changed.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        what = "has no manifest.json" if folder.is_dir() else "is not there"
        raise FileNotFoundError(f"{folder} {what}; {made_by} makes a folder of the format {form}")
    try:
        manifest = json.loads(path.read_text())
    except ValueError:
        raise DamagedFile(f"{path} is not JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != form:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise ValueError(f"{folder} holds {found or 'something else'}, expected {form}; {made_by} makes one")
    if manifest.get("version") != 1:
        raise ValueError(
            f"{path}: version {manifest.get('version')}, this kdhash reads version 1; install a newer kdhash"
        )
    if fields is not None:
        checksum = manifest.pop("sha256", None)
        wrong = [name for name, kind in fields.items() if not isinstance(manifest.get(name), kind)]
        if wrong or checksum != _checksum(manifest):
            what = (
                f"its field {wrong[0]!r} is missing" if wrong else "its checksum is not that of its content"
            )
            raise DamagedFile(f"{path} has changed since it was written: {what}; bring it back from a copy")
    return manifest


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Replaces `folder`/manifest.json at once, with a checksum of its content."""
    write_json(folder / "manifest.json", {**manifest, "sha256": _checksum(manifest)})


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Replaces `path` at once: after a crash it is the old file or the new one, whole."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """What has been written of a file, or the names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
