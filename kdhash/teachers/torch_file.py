"""PyTorch weight files, read without PyTorch.

A `.pth` or `.th` file is a pickle, and a pickle is a program. Only the instructions and the handful of names that a
plain state dict needs are allowed; any other is refused before it is carried out. Both layouts are read: the zip archive
of PyTorch >= 1.6 and the older sequence of pickles followed by raw storages.
"""

import io
import lzma
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

STORAGE_DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
# What pickles of protocol 2 and later write for dicts, lists, tuples, strings, numbers and calls.
# fmt: off
OPCODES = (
    pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.STACK_GLOBAL,
    pickle.REDUCE, pickle.BUILD, pickle.BINPERSID, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE,
    pickle.BINGET, pickle.LONG_BINGET, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT,
    pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE,
    pickle.SHORT_BINUNICODE, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINBYTES,
    pickle.SHORT_BINBYTES, pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.EMPTY_TUPLE, pickle.TUPLE,
    pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.APPEND, pickle.APPENDS, pickle.SETITEM,
    pickle.SETITEMS,
)
# fmt: on
_PythonUnpickler: Any = pickle._Unpickler  # its parts have no types


# What the readers beneath raise for a file that is no PyTorch file, and for one whose parts do not fit.
NOT_READABLE = (
    pickle.UnpicklingError,
    EOFError,
    zipfile.BadZipFile,
    struct.error,
    KeyError,
    IndexError,
    OSError,  # a place before the file's beginning
    zlib.error,
    lzma.LZMAError,
    RuntimeError,  # an encrypted or unknown compression of a zip member
)
LONGEST_REASON = 300
DAMAGED = (TypeError, ValueError, AttributeError, OverflowError, MemoryError, RecursionError)


class TorchFileError(ValueError):
    """A PyTorch file that is damaged, or holds something other than tensors."""


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    """A tensor whose storage may not have been read yet (the older layout puts storages last)."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_torch_file(path: str | Path, *, max_bytes: int = 8 << 30) -> dict[str, np.ndarray]:
    """Reads the state dict of a PyTorch file: {name: array}, a top-level 'state_dict' entry being unwrapped.

    `max_bytes` caps the bytes of all storages, and of all tensors. Raises FileNotFoundError, and TorchFileError for a file that
    is damaged, too large, or asks for anything but tensors.
    """
    path = Path(path)
    with open(path, "rb") as stream:  # storages are read one by one: the file is never held whole
        try:
            return _read(stream, max_bytes, path.stat().st_size)
        except TorchFileError as error:
            raise TorchFileError(f"{path}: {error}") from None
        except NOT_READABLE as error:
            raise TorchFileError(f"{path}: not a readable PyTorch file ({_reason(error)})") from None
        except DAMAGED as error:
            raise TorchFileError(f"{path}: damaged ({_reason(error)})") from None


def _reason(error: BaseException) -> str:
    """What a reader beneath said, of which zipfile may quote the whole file."""
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + " ..."


def _read(stream: BinaryIO, max_bytes: int, file_bytes: int) -> dict[str, np.ndarray]:
    if zipfile.is_zipfile(stream):
        tree, storages = _read_zip(stream, max_bytes)
    else:
        stream.seek(0)
        tree, storages = _read_legacy(_NoLonger(stream, file_bytes), max_bytes)
    state = tree
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        raise TorchFileError(f"holds a {type(state).__name__}, not a state dict")
    arrays = {}
    total = 0
    for name, value in state.items():
        if not isinstance(value, _Tensor):
            continue
        arrays[str(name)] = _as_array(str(name), value, storages, max_bytes - total)
        total += arrays[str(name)].nbytes  # tensors may share a storage: a small file can ask for any amount
    return arrays


class _NoLonger:
    """A file from which no more can be asked for than it holds: `read` would set that much memory aside first."""

    def __init__(self, stream: BinaryIO, size: int):
        self.stream, self.size = stream, size
        self.readline = stream.readline

    def read(self, count: int) -> bytes:
        if count > self.size - self.stream.tell():
            raise EOFError(f"{count} bytes are wanted where the file has fewer left")
        return self.stream.read(count)


class _Unpickler(_PythonUnpickler):
    """Allows what a state dict is made of. Storages stay references, noted in `seen`, until `_as_array`.

    Python's own unpickler, not the one in C: that one allocates whatever memo a file asks for, and sets attributes.
    """

    def __init__(self, stream: BinaryIO | _NoLonger):
        super().__init__(stream)
        self.seen: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _ordered_dict
        if (module, name) in {
            ("torch._utils", "_rebuild_tensor"),
            ("torch._utils", "_rebuild_tensor_v2"),
        }:
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module in ("torch", "torch.cuda") and name in STORAGE_DTYPES:
            return np.dtype(STORAGE_DTYPES[name])
        raise TorchFileError(f"refused: the pickle asks for {module}.{name}, which no state dict needs")

    def persistent_load(self, reference: Any) -> _Storage:
        if not (isinstance(reference, tuple) and len(reference) >= 5 and reference[0] == "storage"):
            raise TorchFileError("refused: a reference to something other than a storage")
        dtype, key, size = reference[1], reference[2], reference[4]
        if not (isinstance(dtype, np.dtype) and isinstance(key, str) and isinstance(size, int) and size >= 0):
            raise TorchFileError("refused: a storage reference is malformed")
        if len(reference) > 5 and reference[5] is not None:
            raise TorchFileError("refused: views of storages are not written by any current PyTorch")
        self.seen[key] = _Storage(key, dtype, size)
        return self.seen[key]

    def build(self) -> None:
        """BUILD sets attributes. PyTorch gives a state dict its '_metadata' by it, which nobody needs here."""
        self.stack.pop()
        if not isinstance(self.stack[-1], OrderedDict):
            raise TorchFileError(f"refused: the pickle sets attributes of a {type(self.stack[-1]).__name__}")

    def setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _set_items(self.stack[-1], [(key, value)])

    def setitems(self) -> None:
        items = self.pop_mark()
        _set_items(self.stack[-1], zip(items[::2], items[1::2], strict=True))

    def refuse(self) -> None:
        raise TorchFileError("refused: the pickle has an instruction that no state dict needs")

    dispatch = dict.fromkeys(range(256), refuse)
    dispatch |= {code[0]: _PythonUnpickler.dispatch[code[0]] for code in OPCODES}
    dispatch |= {pickle.BUILD[0]: build, pickle.SETITEM[0]: setitem, pickle.SETITEMS[0]: setitems}


def _set_items(target: Any, items: Iterable[tuple[Any, Any]]) -> None:
    # a tuple of tuples of ... can take a lifetime to hash
    for key, value in items:
        if not isinstance(target, dict) or not isinstance(key, (str, int)):
            raise TorchFileError("refused: a dict of a state dict has keys other than names and numbers")
        target[key] = value


def _ordered_dict(pairs=()) -> OrderedDict:
    made: OrderedDict = OrderedDict()
    _set_items(made, [(key, value) for key, value in pairs])
    return made


def _rebuild_tensor(
    storage, offset, shape, stride, requires_grad=False, hooks=None, metadata=None
) -> _Tensor:
    if metadata:  # {'neg': True}: the numbers are the negatives of what the storage holds
        raise TorchFileError("refused: a lazily negated or conjugated tensor; save its .resolve_neg()")
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(tensor, *_unused) -> _Tensor:
    return tensor


def _read_zip(stream: BinaryIO, max_bytes: int) -> tuple[Any, dict[str, bytes]]:
    with zipfile.ZipFile(stream) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        pickles = [name for name in sizes if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise TorchFileError("a zip archive without exactly one data.pkl is not a PyTorch file")
        if sum(sizes.values()) > max_bytes:
            raise TorchFileError(f"unpacks to {sum(sizes.values())} bytes, over the cap of {max_bytes}")
        root = pickles[0][: -len("data.pkl")]
        order = root + "byteorder"
        if order in sizes and archive.read(order) != b"little":
            raise TorchFileError("big-endian PyTorch files are not supported")
        tree = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()
        prefix = root + "data/"
        return tree, {name[len(prefix) :]: archive.read(name) for name in sizes if name.startswith(prefix)}


def _read_legacy(stream: _NoLonger, max_bytes: int) -> tuple[Any, dict[str, bytes]]:
    """Five pickles (magic, protocol, system, the object, storage keys), then per storage its length and bytes."""
    start = stream.read(min(4, stream.size))
    stream.stream.seek(0)
    if start.startswith(b"PK"):
        raise TorchFileError(
            "a zip archive that is cut off, or damaged at its end; copy or download it again"
        )
    if not start.startswith(pickle.PROTO):
        raise TorchFileError("not a PyTorch file: it begins with neither a zip archive nor a pickle")
    if _Unpickler(stream).load() != LEGACY_MAGIC or _Unpickler(stream).load() != LEGACY_PROTOCOL:
        raise TorchFileError("not a PyTorch file: the magic number is missing")
    system = _Unpickler(stream).load()
    if not (isinstance(system, dict) and system.get("little_endian", True)):
        raise TorchFileError("big-endian PyTorch files are not supported")
    unpickler = _Unpickler(stream)
    tree = unpickler.load()
    keys = _Unpickler(stream).load()
    storages: dict[str, bytes] = {}
    total = 0
    for key in keys:
        (count,) = struct.unpack("<q", stream.read(8))
        if not isinstance(key, str) or key not in unpickler.seen:
            raise TorchFileError("a storage belongs to no tensor")
        size = count * unpickler.seen[key].dtype.itemsize
        total += size
        if count < 0 or total > max_bytes:
            raise TorchFileError(f"storages of {total} bytes, over the cap of {max_bytes}")
        storages[key] = stream.read(size)
    return tree, storages


def _as_array(name: str, tensor: _Tensor, storages: dict[str, bytes], room: int) -> np.ndarray:
    storage, offset, shape, stride = tensor
    integers = (offset, *shape, *stride)
    if not isinstance(storage, _Storage) or len(shape) != len(stride):
        raise TorchFileError(f"tensor {name!r} is malformed")
    if not all(isinstance(i, int) and i >= 0 for i in integers):
        raise TorchFileError(f"tensor {name!r} has a negative or non-integer offset, size or stride")
    if storage.key not in storages:
        raise TorchFileError(f"tensor {name!r} refers to storage {storage.key!r}, which the file lacks")
    raw = storages[storage.key]
    available = len(raw) // storage.dtype.itemsize
    empty = 0 in shape
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if not empty and (available < storage.size or last >= available):
        raise TorchFileError(
            f"tensor {name!r} reaches element {last} of a storage that holds {available}: the file is truncated or forged"
        )
    if empty:
        return np.zeros(shape, storage.dtype)
    flat = np.frombuffer(raw, storage.dtype, count=available)
    strides = tuple(s * storage.dtype.itemsize for s in stride)
    count = int(np.prod(shape, dtype=object))
    if count > available:
        raise TorchFileError(f"tensor {name!r} has {count} elements over a storage of {available}")
    if count * storage.dtype.itemsize > room:
        raise TorchFileError("its tensors together are over the cap of bytes, though its storages are not")
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, strides, writeable=False).copy()
