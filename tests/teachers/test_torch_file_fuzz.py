"""Hostile PyTorch files: thousands of damaged ones, and programs that a pickle could be.

Each must be read as tensors or refused by TorchFileError, soon, in little memory, with nothing started or opened.
"""

import pickle
import struct
import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from kdhash.teachers.torch_file import LEGACY_MAGIC, LEGACY_PROTOCOL, TorchFileError, read_torch_file
from tests.teachers.test_torch_file import SIX, dump, tensor, write_zip

TREE = {
    "state_dict": {"w": tensor(), "b": tensor(key="1", kind="HalfStorage", size=3, shape=(3,), stride=(1,))}
}
STORAGES = {"0": SIX.tobytes(), "1": np.ones(3, np.float16).tobytes()}
FORBIDDEN = (
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.remove", "os.rename", "os.putenv"),
    *("subprocess.", "socket.", "ctypes.", "shutil."),
)

_forbidden_events: list[str] = []
_watching = False


def _hook(event: str, args: tuple) -> None:
    writes = event == "open" and isinstance(args[1], str) and args[1].strip("rb")
    if _watching and (event.startswith(FORBIDDEN) or writes):
        _forbidden_events.append(event)


@pytest.fixture(scope="module", autouse=True)
def _audited():
    sys.addaudithook(_hook)  # cannot be taken away again, so it is switched off


def attempt(path) -> bool:
    """Whether the file was read; False where it was refused. Everything else fails."""
    global _watching
    start = time.process_time()  # what other programs do meanwhile does not count
    _watching = True
    try:
        state = read_torch_file(path, max_bytes=1 << 20)
    except TorchFileError as error:
        state, message = None, str(error)
    _watching = False
    assert not _forbidden_events
    assert time.process_time() - start < 5
    if state is None:
        assert message.startswith(str(path))
        assert len(message.removeprefix(str(path))) < 1000
        return False
    assert all(type(name) is str and type(value) is np.ndarray for name, value in state.items())
    assert sum(value.nbytes for value in state.values()) < 1 << 24
    return True


def legacy_bytes() -> bytes:
    head = dump(LEGACY_MAGIC) + dump(LEGACY_PROTOCOL) + dump({"little_endian": True})
    tail = struct.pack("<q", 6) + STORAGES["0"] + struct.pack("<q", 3) + STORAGES["1"]
    return head + dump(TREE) + dump(["0", "1"]) + tail


def damaged(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Up to four of: bits flipped, bytes replaced, a part cut out, doubled, overwritten by another file's, the end lost."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        start, length = int(rng.integers(len(data) or 1)), int(rng.integers(1, 40))
        match int(rng.integers(6)):
            case 0 if data:
                data[start] ^= 1 << int(rng.integers(8))
            case 1:
                data[start : start + length] = rng.bytes(length)
            case 2:
                del data[start : start + length]
            case 3:
                data[start:start] = data[start : start + length]
            case 4:
                place = int(rng.integers(len(other)))
                data[start : start + length] = other[place : place + length]
            case 5:
                del data[max(start, len(data) // 2) :]
    return bytes(data)


@pytest.mark.parametrize("layout", ["zip", "legacy", "pickle in a sound zip"])
def test_damaged_files(tmp_path, layout):
    rng = np.random.default_rng(["zip", "legacy", "pickle in a sound zip"].index(layout))
    sound = write_zip(tmp_path / "sound.pth", TREE, STORAGES).read_bytes()
    whole = {"zip": sound, "legacy": legacy_bytes(), "pickle in a sound zip": dump(TREE)}[layout]
    path = tmp_path / "w.pth"
    outcomes = []
    for _ in range(3000):
        data = damaged(whole, legacy_bytes() if layout == "zip" else sound, rng)
        if layout == "pickle in a sound zip":
            write_program(path, data)
        else:
            path.write_bytes(data)
        outcomes.append(attempt(path))
    assert 3 < sum(outcomes) < 1500  # damage to numbers alone is not seen; any other is


def write_program(path, program: bytes):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        for key, raw in STORAGES.items():
            archive.writestr(f"archive/data/{key}", raw)
    return path


def op(code: bytes, *arguments: bytes) -> bytes:
    return code + b"".join(arguments)


def name(module: str, attribute: str) -> bytes:
    return op(pickle.GLOBAL, module.encode(), b"\n", attribute.encode(), b"\n")


def text(value: str) -> bytes:
    return op(pickle.BINUNICODE, struct.pack("<I", len(value)), value.encode())


def nested(levels: int) -> bytes:
    """A tuple of a tuple twice, of ...: 2^levels items to hash, compare or print, in a few bytes."""
    program = pickle.EMPTY_TUPLE
    for level in range(levels):
        place = struct.pack("<I", level)
        program += pickle.LONG_BINPUT + place + pickle.LONG_BINGET + place + pickle.TUPLE2
    return program


REBUILD = name("torch._utils", "_rebuild_tensor_v2")
PROGRAMS = {
    "calls a function": name("os", "system") + text("echo") + pickle.TUPLE1 + pickle.REDUCE,
    "calls by the old instruction": pickle.MARK + text("echo") + b"ios\nsystem\n",
    "calls by another": pickle.MARK + name("os", "system") + text("echo") + pickle.OBJ,
    "makes an object": name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.NEWOBJ,
    "a dotted name": text("collections") + text("OrderedDict.fromkeys") + pickle.STACK_GLOBAL,
    "a registered extension": pickle.EXT1 + b"\x01",
    "a huge place in the memo": pickle.EMPTY_DICT + pickle.LONG_BINPUT + b"\xff\xff\xff\xff",
    "sets defaults of a function": REBUILD
    + (pickle.NONE + pickle.EMPTY_DICT + text("__defaults__") + pickle.EMPTY_TUPLE + pickle.SETITEM)
    + pickle.TUPLE2
    + pickle.BUILD,
    "changes a dtype": name("torch", "FloatStorage") + pickle.NONE + pickle.TUPLE1 + pickle.BUILD,
    "a key without end": pickle.EMPTY_DICT + nested(60) + pickle.NONE + pickle.SETITEM,
    "keys without end": pickle.EMPTY_DICT + pickle.MARK + nested(60) + pickle.NONE + pickle.SETITEMS,
    "a dict of a key without end": name("collections", "OrderedDict")
    + (pickle.EMPTY_LIST + nested(60) + pickle.NONE + pickle.TUPLE2 + pickle.APPEND)
    + pickle.TUPLE1
    + pickle.REDUCE,
    "a reference without end": nested(60) + pickle.BINPERSID,
    "a storage without end": REBUILD + nested(60) + pickle.REDUCE,
    "deeply nested": pickle.EMPTY_LIST * 200_000 + pickle.APPEND * 199_999,
    "a text longer than the file": op(pickle.BINUNICODE, b"\xff\xff\xff\xff", b"short"),
    "a frame longer than the file": op(pickle.FRAME, b"\xff" * 7 + b"\x00"),
    "sets items of a list": pickle.EMPTY_LIST + text("a") + pickle.NONE + pickle.SETITEM,
    "pops too much": pickle.SETITEMS,
    "no end": pickle.EMPTY_DICT,
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_hostile_programs(tmp_path, program, layout):
    program = pickle.PROTO + b"\x02" + program + (b"" if program == pickle.EMPTY_DICT else pickle.STOP)
    path = tmp_path / "w.pth"
    if layout == "zip":
        write_program(path, program)
    else:
        head = dump(LEGACY_MAGIC) + dump(LEGACY_PROTOCOL) + dump({"little_endian": True})
        path.write_bytes(head + program + dump(["0"]) + struct.pack("<q", 6) + STORAGES["0"])
    tracemalloc.start()
    read = attempt(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 << 20
    assert not read or program[2:].startswith(pickle.EMPTY_DICT)  # the memo's place alone does no harm


def test_what_is_let_in_stays_as_it_was():
    from kdhash.teachers import torch_file

    assert torch_file._rebuild_tensor.__defaults__ == (False, None, None)
    assert np.dtype(np.float32) == np.dtype("<f4")


def test_a_key_without_end_among_legacy_storages(tmp_path):
    path = tmp_path / "w.th"
    head = dump(LEGACY_MAGIC) + dump(LEGACY_PROTOCOL) + dump({"little_endian": True}) + dump(TREE)
    keys = pickle.EMPTY_LIST + nested(60) + pickle.APPEND + pickle.STOP
    path.write_bytes(head + keys + struct.pack("<q", 6) + STORAGES["0"])
    assert not attempt(path)


def test_many_tensors_of_one_storage_are_counted(tmp_path):
    whole = {"kind": "ByteStorage", "size": 1 << 18, "shape": (1 << 18,), "stride": (1,)}
    path = write_zip(tmp_path / "w.pth", {str(i): tensor(**whole) for i in range(3)}, {"0": bytes(1 << 18)})
    assert attempt(path)
    write_zip(path, {str(i): tensor(**whole) for i in range(5)}, {"0": bytes(1 << 18)})
    with pytest.raises(TorchFileError, match="tensors together are over the cap"):
        read_torch_file(path, max_bytes=1 << 20)


def test_bombs(tmp_path):
    """A zip of zeros that unpacks to more than the cap, and one whose directory names a member many times."""
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", dump(TREE))
        archive.writestr("archive/data/0", bytes(8 << 20))
    assert path.stat().st_size < 20_000
    assert not attempt(path)

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", dump(TREE))
        archive.writestr("archive/data/0", bytes(100 << 10))
        for copy in range(50):  # entries of the directory that point to the same bytes
            info = zipfile.ZipInfo(f"archive/data/{copy + 2}")
            there = archive.getinfo("archive/data/0")
            for field in ("header_offset", "compress_size", "file_size", "CRC", "compress_type"):
                setattr(info, field, getattr(there, field))
            archive.filelist.append(info)
    assert not attempt(path)
