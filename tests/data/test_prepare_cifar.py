"""CIFAR folders from synthetic archives of the published layouts: exact pixels, or an error and no trace."""

import io
import os
import pickle
import struct
import tarfile
import urllib.error

import numpy as np
import pytest

from kdhash.__main__ import main
from kdhash.data import load_dataset, prepare_cifar

NAMES = {
    "label": [f"fine {label}" for label in range(10)],
    "coarse_label": [f"coarse {label}" for label in range(4)],
}


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes alike as Python 2 strings, as in the published archives."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        data = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def pickle_like_python2(value):
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def pickle_again(value):
    return pickle.dumps(value, protocol=2)


class Published:
    """Random pictures in every published form."""

    def __init__(self, name, per_file=6):
        generator = np.random.default_rng(7)
        self.name = name
        self.keys = ["label"] if name == "cifar10" else ["coarse_label", "label"]
        numbered = [f"data_batch_{number}" for number in range(1, 6)]
        self.members = {
            "train": numbered if name == "cifar10" else ["train"],
            "test": ["test_batch"] if name == "cifar10" else ["test"],
        }
        self.pixels, self.labels = {}, {}
        for members in self.members.values():
            for member in members:
                self.pixels[member] = generator.integers(0, 256, (per_file, 3072), np.uint8)
                self.labels[member] = {
                    key: generator.integers(0, len(NAMES[key]), per_file) for key in self.keys
                }

    def binary(self):
        files = {}
        for member, pixels in self.pixels.items():
            labels = [self.labels[member][key][:, None].astype(np.uint8) for key in self.keys]
            files[f"{member}.bin"] = np.concatenate([*labels, pixels], axis=1).tobytes()
        if self.name == "cifar10":
            return files | {
                "batches.meta.txt": ("\n".join(NAMES["label"]) + "\n\n").encode(),
                "readme.html": b"!",
            }
        return files | {
            "fine_label_names.txt": "\n".join(NAMES["label"]).encode(),
            "coarse_label_names.txt": "\n".join(NAMES["coarse_label"]).encode(),
        }

    def python(self, dump=pickle_like_python2, key_type=str):
        own = (
            {"label": "labels"}
            if self.name == "cifar10"
            else {"label": "fine_labels", "coarse_label": "coarse_labels"}
        )
        names = {
            "labels": "label_names",
            "fine_labels": "fine_label_names",
            "coarse_labels": "coarse_label_names",
        }
        typed = (lambda text: text.encode()) if key_type is bytes else str
        files = {}
        for member, pixels in self.pixels.items():
            batch = {typed(own[key]): values.tolist() for key, values in self.labels[member].items()}
            batch |= {typed("data"): pixels, typed("batch_label"): typed("one of several")}
            files[member] = dump(batch)
        meta = {typed(names[own[key]]): [typed(entry) for entry in NAMES[key]] for key in self.keys}
        files["batches.meta" if self.name == "cifar10" else "meta"] = dump(meta)
        return files

    def check(self, dataset):
        """Every picture and label, by its published id."""
        pictures = dataset.images[np.arange(len(dataset))]
        rows = {identity: row for row, identity in enumerate(dataset.ids)}
        count = 0
        for split, members in self.members.items():
            pixels = np.concatenate([self.pixels[member] for member in members])
            labels = np.concatenate([self.labels[member]["label"] for member in members])
            for number, (pixel, label) in enumerate(zip(pixels, labels, strict=True)):
                row = rows[f"{split}_{number:05d}"]
                assert row in dataset.splits[split]
                assert dataset.labels[row] == label
                for channel in range(3):
                    plane = pixel[channel * 1024 : (channel + 1) * 1024].reshape(32, 32)
                    np.testing.assert_array_equal(pictures[row, :, :, channel], plane)
                count += 1
        assert count == len(dataset)


def write_tar(path, files, folder="cifar-batches"):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


LAYOUTS = {
    "binary": Published.binary,
    "python": Published.python,
    "python again, str keys": lambda self: self.python(pickle_again),
    "python again, bytes keys": lambda self: self.python(pickle_again, bytes),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_round_trip_is_exact(tmp_path, name, layout):
    published = Published(name)
    archive = write_tar(tmp_path / "some.tar.gz", LAYOUTS[layout](published))
    folder, counts = prepare_cifar.prepare_cifar(name, archive, tmp_path / "data", allow_unverified=True)
    assert folder == tmp_path / "data" / name / "3.0.2"
    assert counts == {"train": 30 if name == "cifar10" else 6, "test": 6}
    dataset = load_dataset(name, tmp_path / "data")
    assert dataset.name == name
    assert dataset.class_names == tuple(NAMES["label"])
    published.check(dataset)
    assert os.listdir(tmp_path / "data") == [name]


def test_a_sample_is_of_the_first_of_each_class(tmp_path, capsys):
    published = Published("cifar100", per_file=40)
    archive = write_tar(tmp_path / "some.tar.gz", published.binary())
    arguments = ["cifar100", "--archive", str(archive), "--data-dir", str(tmp_path), "--per-class", "2"]
    assert main(["prepare", *arguments, "--allow-unverified"]) == 0
    dataset = load_dataset("cifar100_first2", tmp_path)
    labels = published.labels["train"]["label"]
    first = {f"train_{row:05d}" for row in range(40) if (labels[:row] == labels[row]).sum() < 2}
    found = {identifier for identifier in dataset.ids if identifier.startswith("train")}
    assert found == first
    assert main(["prepare", *arguments]) == 0  # it is there already
    assert main(["prepare", *arguments[:-1], "-1"]) == 1
    assert capsys.readouterr().err == "error: -1 pictures of each class: must be 0 (all) or more\n"


def test_features_and_order_are_those_of_the_registered_set(tmp_path):
    import tensorflow_datasets as tfds

    published = Published("cifar100", per_file=40)
    archive = write_tar(tmp_path / "some.tar.gz", published.binary())
    prepare_cifar.prepare_cifar("cifar100", archive, tmp_path, allow_unverified=True)
    registered = tfds.builder("cifar100", data_dir=tmp_path, file_format="array_record")
    assert set(registered.info.features) == {"id", "image", "label", "coarse_label"}
    source = registered.as_data_source(split="train")
    for record in source:
        number = int(record["id"].decode()[-5:])
        assert record["coarse_label"] == published.labels["train"]["coarse_label"][number]
        assert record["label"] == published.labels["train"]["label"][number]
        assert record["image"].shape == (32, 32, 3)
    # the registered builder hashes the running number as its key
    hasher = tfds.core.hashing.Hasher("train")
    numbers = sorted(range(40), key=hasher.hash_key)
    assert [int(record["id"].decode()[-5:]) for record in source] == numbers


def test_both_layouts_give_the_same_data(tmp_path):
    published = Published("cifar10")
    fingerprints = set()
    for layout, files in LAYOUTS.items():
        data_dir = tmp_path / layout
        archive = write_tar(tmp_path / "some.tar.gz", files(published))
        prepare_cifar.prepare_cifar("cifar10", archive, data_dir, allow_unverified=True)
        fingerprints.add(load_dataset("cifar10", data_dir).fingerprint)
    assert len(fingerprints) == 1


def test_checksums_are_those_that_tfds_registers():
    import tensorflow_datasets as tfds

    for name, archives in prepare_cifar.ARCHIVES.items():
        listed = (tfds.core.tfds_path() / f"url_checksums/{name}.txt").read_text()
        assert f"{archives[0].sha256}\t{archives[0].file}" in listed
        assert prepare_cifar.HOME + archives[0].file in listed


def test_a_wrong_checksum_prints_both(tmp_path, monkeypatch):
    archive = write_tar(tmp_path / "cifar-10-binary.tar.gz", Published("cifar10").binary())
    with pytest.raises(ValueError, match="--allow-unverified") as error:
        prepare_cifar.prepare_cifar("cifar10", archive, tmp_path / "data")
    import hashlib

    assert hashlib.sha256(archive.read_bytes()).hexdigest() in str(error.value)
    assert "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd" in str(error.value)
    assert not (tmp_path / "data").exists()


def accept(monkeypatch, name, archive):
    """Makes the sha256 of `archive` the published one."""
    import dataclasses
    import hashlib

    known = dataclasses.replace(
        prepare_cifar.ARCHIVES[name][0], sha256=hashlib.sha256(archive.read_bytes()).hexdigest()
    )
    monkeypatch.setitem(prepare_cifar.ARCHIVES, name, (known, *prepare_cifar.ARCHIVES[name][1:]))


def test_a_right_checksum_passes_and_another_sets_archive_is_named(tmp_path, monkeypatch):
    archive = write_tar(tmp_path / "archive.tar.gz", Published("cifar10").binary())
    accept(monkeypatch, "cifar10", archive)
    prepare_cifar.prepare_cifar("cifar10", archive, tmp_path / "data")
    with pytest.raises(ValueError, match="It is cifar-10-binary.tar.gz"):
        prepare_cifar.prepare_cifar("cifar100", archive, tmp_path / "data")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("layout", ["binary", "python"])
def test_a_truncated_archive_is_an_error(tmp_path, layout, share):
    archive = write_tar(tmp_path / "some.tar.gz", LAYOUTS[layout](Published("cifar10")))
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="some.tar.gz"):
        prepare_cifar.prepare_cifar("cifar10", archive, tmp_path / "data", allow_unverified=True)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("plain", [b"", b"no archive at all" * 100])
def test_no_archive_is_an_error(tmp_path, plain):
    (tmp_path / "file").write_bytes(plain)
    with pytest.raises(ValueError, match="file is cut off or damaged"):
        prepare_cifar.prepare_cifar("cifar10", tmp_path / "file", tmp_path / "data", allow_unverified=True)
    with pytest.raises(FileNotFoundError, match="no archive at"):
        prepare_cifar.prepare_cifar("cifar10", tmp_path / "none", tmp_path / "data")


def damage_missing(files):
    del files["data_batch_3.bin"]


def damage_short(files):
    files["data_batch_3.bin"] = files["data_batch_3.bin"][:-1]


def damage_label(files):
    files["test_batch.bin"] = b"\x0a" + files["test_batch.bin"][1:]


def damage_names(files):
    del files["batches.meta.txt"]


def damage_empty(files):
    files["test_batch.bin"] = b""


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_missing, "lacks data_batch_3.bin"),
        (damage_short, "data_batch_3.bin has 18437 bytes, no multiple of 3073"),
        (damage_label, "label of test is .*10 for 10 names"),
        (damage_names, "lacks batches.meta.txt"),
        (damage_empty, "has no test pictures"),
    ],
)
def test_damaged_binary_content(tmp_path, damage, message):
    files = Published("cifar10").binary()
    damage(files)
    archive = write_tar(tmp_path / "some.tar.gz", files)
    with pytest.raises(ValueError, match=message):
        prepare_cifar.prepare_cifar("cifar10", archive, tmp_path / "data", allow_unverified=True)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil-was-here",)


class EvilBytes:
    def __reduce__(self):
        import codecs

        return codecs.encode, ("payload", "rot13")


PIXELS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": Evil(), "labels": [0]}, r"data_batch_2 .* refers to \w+.mkdir, which is not allowed"),
        ({"data": EvilBytes(), "labels": [0]}, "stored as 'rot13'"),
        ({"data": np.array([Evil()], object), "labels": [0]}, "not allowed"),
        ({"data": PIXELS, "labels": [0]}, "no list 'labels' of 2 labels"),
        ({"data": PIXELS[:, 1:], "labels": [0, 1]}, "no uint8 'data' of 3072"),
        ({"data": PIXELS.astype(np.float32), "labels": [0, 1]}, "no uint8 'data'"),
        ({"labels": [0, 1]}, "no uint8 'data'"),
        ([1, 2], "holds a list, not a dictionary"),
    ],
)
def test_only_arrays_are_unpickled(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    files = Published("cifar10").python(pickle_again)
    files["data_batch_2"] = pickle_again(content)
    archive = write_tar(tmp_path / "some.tar.gz", files)
    with pytest.raises(ValueError, match=message):
        prepare_cifar.prepare_cifar("cifar10", archive, tmp_path / "data", allow_unverified=True)
    assert not (tmp_path / "evil-was-here").exists()


def test_a_cut_pickle(tmp_path):
    files = Published("cifar10").python()
    files["test_batch"] = files["test_batch"][:500]
    archive = write_tar(tmp_path / "some.tar.gz", files)
    with pytest.raises(ValueError, match="test_batch is not a readable pickle"):
        prepare_cifar.prepare_cifar("cifar10", archive, tmp_path / "data", allow_unverified=True)


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    archive = write_tar(tmp_path / "some.tar.gz", Published("cifar10").binary())
    calls = []

    def full_disk(picture):
        calls.append(1)
        if len(calls) == 9:
            raise OSError("no space left")
        return b"png"

    monkeypatch.setattr(prepare_cifar, "encode_png", full_disk)
    with pytest.raises(OSError, match="no space left"):
        prepare_cifar.prepare_cifar("cifar10", archive, tmp_path / "data", allow_unverified=True)
    assert os.listdir(tmp_path / "data") == []


def test_an_existing_folder_is_not_touched(tmp_path):
    archive = write_tar(tmp_path / "some.tar.gz", Published("cifar10").binary())
    (tmp_path / "data/cifar10/3.0.2").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="already exists"):
        prepare_cifar.prepare_cifar("cifar10", archive, tmp_path / "data", allow_unverified=True)
    assert os.listdir(tmp_path / "data/cifar10/3.0.2") == []


def test_download_verifies_and_is_not_repeated(tmp_path, monkeypatch):
    archive = write_tar(tmp_path / "published.tar.gz", Published("cifar10").binary())
    asked = []

    def open_url(url, timeout):
        asked.append((url, timeout))
        return archive.open("rb")

    monkeypatch.setattr(prepare_cifar.urllib.request, "urlopen", open_url)
    with pytest.raises(ValueError, match="sha256"):
        prepare_cifar.download_cifar("cifar10", tmp_path / "data")
    assert os.listdir(tmp_path / "data/downloads") == []
    accept(monkeypatch, "cifar10", archive)
    for _ in range(2):
        target = prepare_cifar.download_cifar("cifar10", tmp_path / "data")
        assert target == tmp_path / "data/downloads/cifar-10-binary.tar.gz"
        assert target.read_bytes() == archive.read_bytes()
    assert asked == [("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", 30)] * 2


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("Name or service not known"), TimeoutError("timed out")]
)
def test_download_without_network(tmp_path, monkeypatch, error):
    def fail(url, timeout):
        raise error

    monkeypatch.setattr(prepare_cifar.urllib.request, "urlopen", fail)
    with pytest.raises(ConnectionError, match=r"cannot download https://.*: (Name|timed).*--archive FILE"):
        prepare_cifar.download_cifar("cifar100", tmp_path / "data")
    assert os.listdir(tmp_path / "data/downloads") == []
