"""Class folders become a data set; bad files are skipped or named; splits are stratified and fixed."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from kdhash.data import load_dataset
from kdhash.data.prepare_folder import prepare_folder


def save_picture(path, seed, size=(40, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def pictures(tmp_path):
    """Three classes of 10 pictures, 32 pixels high; {id: pixels}."""
    saved = {}
    for label, name in enumerate(["bee", "ant", "cat dog"]):
        for number in range(10):
            identity = f"{name}/{number}.png"
            saved[identity] = save_picture(tmp_path / "pictures" / identity, 100 * label + number)
    return saved


def prepare(tmp_path, **options):
    return prepare_folder(tmp_path / "pictures", "mine", tmp_path / "data", **options)


def test_pixels_labels_and_ids(tmp_path, pictures):
    report = prepare(tmp_path)
    assert report.folder == tmp_path / "data/mine/1.0.0"
    assert report.class_names == ("ant", "bee", "cat dog")
    assert report.counts == {"train": 27, "test": 3}
    assert report.skipped == ()
    dataset = load_dataset("mine", tmp_path / "data")
    assert dataset.class_names == report.class_names
    assert sorted(dataset.ids) == sorted(pictures)
    found = dataset.images[np.arange(30)]
    for row, identity in enumerate(dataset.ids):
        # 40 x 32: four columns are cut on each side, and nothing is resampled
        np.testing.assert_array_equal(found[row], pictures[identity][:, 4:36])
        assert report.class_names[dataset.labels[row]] == identity.split("/")[0]
    assert os.listdir(tmp_path / "data") == ["mine"]


def test_the_split_is_stratified_seeded_and_fixed(tmp_path, pictures):
    def test_ids(data_dir, **options):
        prepare_folder(tmp_path / "pictures", "mine", tmp_path / data_dir, **options)
        dataset = load_dataset("mine", tmp_path / data_dir, in_memory=False)
        rows = np.array(dataset.splits["test"])
        return {dataset.ids[row] for row in rows}, np.bincount(dataset.labels[rows]).tolist()

    first, counts = test_ids("a", test_share=0.3)
    assert counts == [3, 3, 3]
    assert test_ids("b", test_share=0.3)[0] == first
    assert test_ids("c", test_share=0.3, seed=1)[0] != first
    # at least one, and never all
    assert test_ids("d", test_share=0.001)[1] == [1, 1, 1]
    assert test_ids("e", test_share=0.999)[1] == [9, 9, 9]
    # a new picture in one class moves no other picture
    save_picture(tmp_path / "pictures/ant/new.png", 999)
    assert {name for name in test_ids("f", test_share=0.3)[0] if "ant" not in name} == {
        name for name in first if "ant" not in name
    }


def test_existing_splits_are_kept(tmp_path):
    for split, classes in {"train": "ab", "test": "ab", "val": "a"}.items():
        for name in classes:
            for number in range(2):
                save_picture(tmp_path / "pictures" / split / name / f"{number}.png", number)
    report = prepare(tmp_path)
    assert report.counts == {"train": 4, "validation": 2, "test": 4}
    dataset = load_dataset("mine", tmp_path / "data")
    for split, rows in dataset.splits.items():
        assert all(dataset.ids[row].startswith(split[:3]) for row in rows)


def test_train_without_test(tmp_path):
    save_picture(tmp_path / "pictures/train/a/0.png", 0)
    with pytest.raises(ValueError, match="has a folder train but none named test"):
        prepare(tmp_path)


def test_a_test_class_without_training_pictures(tmp_path):
    for identity in ("train/a/0.png", "test/a/0.png", "test/b/0.png"):
        save_picture(tmp_path / "pictures" / identity, 0)
    with pytest.raises(ValueError, match="test/b has no counterpart in"):
        prepare(tmp_path)


def test_classes_may_be_called_train_and_bus(tmp_path):
    for identity in ("train/0.png", "train/1.png", "bus/0.png", "bus/1.png"):
        save_picture(tmp_path / "pictures" / identity, 0)
    assert prepare(tmp_path).class_names == ("bus", "train")


def test_deeper_pictures_count_and_hidden_ones_do_not(tmp_path, pictures):
    save_picture(tmp_path / "pictures/ant/queens/0.png", 0)
    save_picture(tmp_path / "pictures/ant/.trash/0.png", 0)
    (tmp_path / "pictures/ant/.DS_Store").write_bytes(b"?")
    (tmp_path / "pictures/.git").mkdir()
    (tmp_path / "pictures/README.txt").write_text("beside the class folders")
    report = prepare(tmp_path)
    assert sum(report.counts.values()) == 31
    assert report.class_names == ("ant", "bee", "cat dog")
    assert "ant/queens/0.png" in load_dataset("mine", tmp_path / "data").ids


def bomb():
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def spoil(folder):
    """Adds every kind of bad file; {relative path: what the reason must say}."""
    whole = (folder / "ant/0.png").read_bytes()
    bad = {
        "ant/cut.png": (whole[: len(whole) // 2], "truncated"),
        "ant/empty.jpg": (b"", "not a picture in a known format"),
        "bee/notes.txt": (b"no picture", "not a picture in a known format"),
        "bee/bomb.png": (bomb(), "exceeds limit"),
        "cat dog/page.html.png": (b"<html>404</html>", "not a picture in a known format"),
    }
    for path, (content, _) in bad.items():
        (folder / path).write_bytes(content)
    return {path: reason for path, (_, reason) in bad.items()}


def test_bad_files_are_skipped_and_listed(tmp_path, pictures, recwarn):
    bad = spoil(tmp_path / "pictures")
    report = prepare(tmp_path)
    assert [path for path, _ in report.skipped] == sorted(bad)
    for path, reason in report.skipped:
        assert bad[path] in reason
    assert sum(report.counts.values()) == 30
    assert sorted(load_dataset("mine", tmp_path / "data").ids) == sorted(pictures)


@pytest.mark.parametrize("path", ["ant/cut.png", "bee/notes.txt", "bee/bomb.png"])
def test_bad_files_are_errors_on_demand(tmp_path, pictures, path):
    bad = spoil(tmp_path / "pictures")
    for other in bad:
        if other != path:
            (tmp_path / "pictures" / other).unlink()
    with pytest.raises(ValueError, match=f"{path}: .*{bad[path]}.*--on-error skip"):
        prepare(tmp_path, on_error="fail")
    assert not (tmp_path / "data").exists()


def test_sizes(tmp_path, pictures):
    prepare(tmp_path, size=12)
    assert load_dataset("mine", tmp_path / "data").images.image_shape == (12, 12, 3)


def test_a_failure_while_writing_leaves_nothing(tmp_path, pictures, monkeypatch):
    def fail(self, example):
        raise OSError("no space left")

    monkeypatch.setattr("tensorflow_datasets.core.features.Image.encode_example", fail)
    with pytest.raises(OSError, match="no space left"):
        prepare(tmp_path)
    assert os.listdir(tmp_path / "data") == []


def test_an_existing_data_set_is_not_touched(tmp_path, pictures):
    prepare(tmp_path)
    before = load_dataset("mine", tmp_path / "data").fingerprint
    with pytest.raises(FileExistsError, match="already exists; remove it first"):
        prepare(tmp_path, size=8)
    assert load_dataset("mine", tmp_path / "data").fingerprint == before


def test_folders_that_cannot_be_a_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*pictures"):
        prepare(tmp_path)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(ValueError, match="has no class folders"):
        prepare(tmp_path)
    save_picture(tmp_path / "pictures/ant/0.png", 0)
    with pytest.raises(ValueError, match="class 'ant' has 1 readable picture; 2 are needed"):
        prepare(tmp_path)
    (tmp_path / "pictures/bee").mkdir()
    with pytest.raises(ValueError, match="class folder .*bee is empty"):
        prepare(tmp_path)
    (tmp_path / "pictures/bee/bad.png").write_bytes(b"?")
    with pytest.raises(ValueError, match="class 'bee' in .* has no readable picture"):
        prepare(tmp_path)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("My Set", {}, "name 'My Set'"),
        ("../up", {}, "name '../up'"),
        ("digits", {}, "built in"),
        ("mine", {"size": 0}, "size is 0"),
        ("mine", {"test_share": 0.0}, "test_share is 0.0"),
        ("mine", {"test_share": 1.0}, "test_share is 1.0"),
        ("mine", {"on_error": "ignore"}, "on_error is 'ignore'"),
    ],
)
def test_bad_arguments(tmp_path, pictures, name, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_folder(tmp_path / "pictures", name, tmp_path / "data", **options)
