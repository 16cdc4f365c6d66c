"""Legacy and zip PyTorch files, real and forged."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from kdhash.teachers.torch_file import LEGACY_MAGIC, LEGACY_PROTOCOL, TorchFileError, read_torch_file


class _Global:
    """Pickles as a bare reference to module.name."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class _Call:
    """Pickles as function(*arguments)."""

    def __init__(self, function: _Global, *arguments):
        self.function, self.arguments = function, arguments


class _Storage:
    def __init__(self, key: str, kind: str, size: int):
        self.key, self.kind, self.size = key, kind, size


class _Pickler(pickle._Pickler):  # the Python one, which lets references be written by hand
    def persistent_id(self, value):
        if isinstance(value, _Storage):
            return ("storage", _Global("torch", value.kind), value.key, "cpu", value.size)
        return None

    def save(self, value, save_persistent_id=True):
        if isinstance(value, _Global):
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, _Call):
            self.save(value.function)
            self.save(value.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(value, save_persistent_id)


def dump(value) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, 2).dump(value)
    return stream.getvalue()


def tensor(key="0", kind="FloatStorage", size=6, offset=0, shape=(2, 3), stride=(3, 1)):
    rebuild = _Global("torch._utils", "_rebuild_tensor_v2")
    return _Call(rebuild, _Storage(key, kind, size), offset, shape, stride, False, OrderedDict())


def write_zip(path, tree, storages):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", dump(tree))
        archive.writestr("archive/byteorder", "little")
        for key, raw in storages.items():
            archive.writestr(f"archive/data/{key}", raw)
    return path


SIX = np.arange(6, dtype=np.float32)


def test_zip_with_a_transposed_view_and_an_offset(tmp_path):
    tree = {
        "plain": tensor(),
        "turned": tensor(shape=(3, 2), stride=(1, 3)),
        "tail": tensor(offset=4, shape=(2,), stride=(1,)),
        "zero": tensor(offset=5, shape=(), stride=()),
    }
    state = read_torch_file(write_zip(tmp_path / "w.pth", tree, {"0": SIX.tobytes()}))
    np.testing.assert_array_equal(state["plain"], SIX.reshape(2, 3))
    np.testing.assert_array_equal(state["turned"], SIX.reshape(2, 3).T)
    np.testing.assert_array_equal(state["tail"], [4, 5])
    assert state["zero"] == 5


def test_state_dict_entry_is_unwrapped_and_other_entries_dropped(tmp_path):
    tree = {"epoch": 3, "state_dict": {"w": tensor()}}
    assert list(read_torch_file(write_zip(tmp_path / "w.pth", tree, {"0": SIX.tobytes()}))) == ["w"]


def test_legacy_layout(tmp_path):
    path = tmp_path / "w.th"
    head = dump(LEGACY_MAGIC) + dump(LEGACY_PROTOCOL) + dump({"little_endian": True})
    path.write_bytes(head + dump({"w": tensor()}) + dump(["0"]) + struct.pack("<q", 6) + SIX.tobytes())
    np.testing.assert_array_equal(read_torch_file(path)["w"], SIX.reshape(2, 3))


@pytest.mark.parametrize(("module", "name"), [("os", "system"), ("builtins", "eval"), ("torch.nn", "Linear")])
def test_any_other_name_in_the_pickle_is_refused(tmp_path, module, name):
    path = write_zip(tmp_path / "w.pth", {"w": _Call(_Global(module, name), "echo")}, {})
    with pytest.raises(TorchFileError, match=f"{module}.{name}"):
        read_torch_file(path)


@pytest.mark.parametrize(
    "forged",
    [
        {"offset": 1},
        {"shape": (2, 4)},
        {"stride": (100, 1)},
        {"offset": -1},
        {"shape": (2, -3)},
        {"shape": (1 << 20, 1 << 20), "stride": (0, 0)},
        {"size": 7},
        {"key": "1"},
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, forged):
    path = write_zip(tmp_path / "w.pth", {"w": tensor(**forged)}, {"0": SIX.tobytes()})
    with pytest.raises(TorchFileError, match="w"):
        read_torch_file(path)


def test_a_lazily_negated_tensor_is_refused(tmp_path):
    rebuild = _Global("torch._utils", "_rebuild_tensor_v2")
    storage = _Storage("0", "FloatStorage", 6)
    for metadata, refused in (({}, False), (None, False), ({"neg": True}, True)):
        call = _Call(rebuild, storage, 0, (6,), (1,), False, OrderedDict(), metadata)
        path = write_zip(tmp_path / "w.pth", {"w": call}, {"0": SIX.tobytes()})
        if refused:
            with pytest.raises(TorchFileError, match="lazily negated"):
                read_torch_file(path)
        else:
            np.testing.assert_array_equal(read_torch_file(path)["w"], SIX)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 and no more", "a zip archive that is cut off"),
        (b"no weights at all", "neither a zip archive nor a pickle"),
        (b"", "neither a zip archive nor a pickle"),
        (struct.pack("<Q", 2) + b"{}", "neither a zip archive nor a pickle"),  # safetensors
    ],
)
def test_what_is_no_pytorch_file_says_so(tmp_path, content, message):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(TorchFileError, match=message):
        read_torch_file(path)


def test_size_cap(tmp_path):
    path = write_zip(tmp_path / "w.pth", {"w": tensor()}, {"0": SIX.tobytes()})
    with pytest.raises(TorchFileError, match="cap"):
        read_torch_file(path, max_bytes=10)


def test_damaged_real_file_never_gives_anything_but_a_clear_error(shared, tmp_path):
    """Truncated and bit-flipped copies of a real file are refused or read; nothing else happens."""
    data = (shared / "weights" / "resnet20-12fca82f.th").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "w.th"
    refused = 0
    for trial in range(24):
        broken = bytearray(data[: int(rng.integers(len(data)))] if trial % 2 else data)
        for place in rng.integers(0, min(len(broken), 9000), 3) if broken else ():
            broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            read_torch_file(path)
        except TorchFileError:
            refused += 1
    assert refused > 12
