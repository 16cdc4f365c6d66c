"""Protocols: sizes, disjointness, permanence, files, and the errors that protect a score."""

import dataclasses

import numpy as np
import pytest

from kdhash.data import ArrayImages, ImageDataset, check_overlap, load_protocol, make_protocol, save_protocol
from kdhash.data.stratify import hash_order

PARTS = ("query", "database", "train", "validation")
RECORDED = "ed4f6c87079d76a8d8d957388ab45681cc9177636945e9046b32803d04fbcf67"


class NoPixels:
    """Stands for 60,000 pictures that no protocol needs to look at."""

    image_shape = (32, 32, 3)

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, rows):
        raise AssertionError("a protocol looked at pictures")


def make_dataset(train, test, classes, images=None, name="made"):
    labels = (np.arange(train + test) % classes).astype(np.int32)
    return ImageDataset(
        name=name,
        images=images or NoPixels(train + test),
        labels=labels,
        ids=[f"id{row:05d}" for row in range(train + test)],
        class_names=tuple(f"c{label}" for label in range(classes)),
        splits={"train": range(train), "test": range(train, train + test)},
        fingerprint="f" * 64,
    )


@pytest.fixture(scope="module")
def cifar():
    return make_dataset(50_000, 10_000, 10, name="cifar10")


def per_class(dataset, rows):
    return np.bincount(dataset.labels[rows], minlength=len(dataset.class_names)).tolist()


def test_cifar10_1(cifar):
    protocol = make_protocol("cifar10-1", cifar, seed=0, validation_per_class=50)
    assert per_class(cifar, protocol.query) == [100] * 10
    assert per_class(cifar, protocol.database) == [5900] * 10
    assert per_class(cifar, protocol.train) == [450] * 10
    assert per_class(cifar, protocol.validation) == [50] * 10
    assert np.isin(protocol.train, protocol.database).all()
    assert np.isin(protocol.validation, protocol.database).all()
    assert set(protocol.query) | set(protocol.database) == set(range(60_000))
    # drawn from all 60,000, not from the official test set
    assert 0 < (protocol.query < 50_000).sum() < 1000
    assert protocol.ks == (0, 1000)


def test_cifar10_2(cifar):
    protocol = make_protocol("cifar10-2", cifar, seed=0, validation_per_class=100)
    np.testing.assert_array_equal(protocol.query, np.arange(50_000, 60_000))
    np.testing.assert_array_equal(protocol.database, np.arange(50_000))
    assert per_class(cifar, protocol.train) == [4900] * 10
    assert per_class(cifar, protocol.validation) == [100] * 10
    np.testing.assert_array_equal(np.union1d(protocol.train, protocol.validation), protocol.database)
    assert protocol.ks == (1000, 0)


def test_holdout_without_validation():
    dataset = make_dataset(40, 12, 4)
    protocol = make_protocol("holdout", dataset, seed=0)
    np.testing.assert_array_equal(protocol.query, np.arange(40, 52))
    np.testing.assert_array_equal(protocol.train, protocol.database)
    assert len(protocol.validation) == 0
    assert protocol.fingerprint == dataset.fingerprint


def test_cifar10_brcd(cifar):
    protocol = make_protocol("cifar10-brcd", cifar, seed=0)
    np.testing.assert_array_equal(protocol.database, np.arange(50_000))
    assert per_class(cifar, protocol.query) == per_class(cifar, protocol.validation) == [500] * 10
    assert protocol.query.min() >= 50_000
    np.testing.assert_array_equal(np.union1d(protocol.query, protocol.validation), np.arange(50_000, 60_000))
    assert per_class(cifar, protocol.train) == [500] * 10
    assert np.isin(protocol.train, protocol.database).all()
    assert (
        protocol.checksum == make_protocol("cifar10-brcd", cifar, seed=0, validation_per_class=500).checksum
    )
    with pytest.raises(ValueError, match="'cifar10-brcd' has 500 of its own"):
        make_protocol("cifar10-brcd", cifar, seed=0, validation_per_class=100)


@pytest.mark.parametrize("name", ["cifar10-1", "cifar10-2", "cifar10-brcd", "holdout"])
def test_rows_are_ascending_int64_and_a_function_of_the_seed(cifar, name):
    first, again, other = (
        make_protocol(name, cifar, seed=seed, validation_per_class=500 if name == "cifar10-brcd" else 10)
        for seed in (1, 1, 2)
    )
    for part in PARTS:
        rows = getattr(first, part)
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
        np.testing.assert_array_equal(rows, getattr(again, part))
    assert first.checksum == again.checksum
    assert first.checksum != other.checksum
    assert not np.array_equal(first.validation, other.validation)


def test_the_split_never_changes(cifar):
    """Recorded once: a change here makes every published score of this protocol another one."""
    assert make_protocol("cifar10-1", cifar, seed=0, validation_per_class=50).checksum == RECORDED
    assert hash_order(["a", "b", "c", "d"], "salt").tolist() == [1, 2, 3, 0]


def test_the_split_follows_the_ids_not_the_order():
    dataset = make_dataset(40, 12, 4)
    turned = dataclasses.replace(
        dataset,
        ids=[*reversed(dataset.ids[:40]), *dataset.ids[40:]],
        labels=np.concatenate([dataset.labels[:40][::-1], dataset.labels[40:]]),
    )
    first = make_protocol("holdout", dataset, seed=0, validation_per_class=3)
    second = make_protocol("holdout", turned, seed=0, validation_per_class=3)
    assert {dataset.ids[row] for row in first.validation} == {turned.ids[row] for row in second.validation}


def test_checksum_covers_which_part_a_row_is_in():
    protocol = make_protocol("holdout", make_dataset(40, 12, 4), seed=0, validation_per_class=2)
    moved = dataclasses.replace(
        protocol, train=np.union1d(protocol.train, protocol.validation), validation=np.empty(0, np.int64)
    )
    assert moved.checksum != protocol.checksum


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar10-3", {}, "unknown protocol 'cifar10-3'; known: cifar10-1, cifar10-2, cifar10-brcd, holdout"),
        ("cifar10-1", {}, "is defined on CIFAR-10 .* 'made' has 40, 12, 4; use 'holdout'"),
        ("holdout", {"validation_per_class": 10}, "is 10; the smallest class has 10 training pictures.*0..9"),
        ("holdout", {"validation_per_class": -1}, "is -1"),
    ],
)
def test_what_cannot_be_made(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_protocol(name, make_dataset(40, 12, 4), seed=0, **options)


def test_splits_are_needed():
    dataset = dataclasses.replace(make_dataset(40, 12, 4), splits={"train": range(52)})
    with pytest.raises(ValueError, match=r"needs the splits 'train' and 'test'; 'made' has \['train'\]"):
        make_protocol("holdout", dataset, seed=0)


def test_too_few_of_a_class(cifar):
    labels = cifar.labels.copy()
    labels[(labels == 7) & (np.arange(60_000) > 500)] = 6
    with pytest.raises(ValueError, match="class 'c7' has 50 pictures to choose 100 from"):
        make_protocol("cifar10-1", dataclasses.replace(cifar, labels=labels), seed=0)


@pytest.mark.parametrize(
    ("part", "rows", "message"),
    [
        ("database", [3, 41, 45], r"query and database of 'holdout' share 2 pictures: id00041, id00045"),
        ("train", [3, 51], "query and train of 'holdout' share 1 pictures: id00051"),
        ("validation", [50], "query and validation"),
        ("validation", [3], "validation and train of 'holdout' share 1 pictures: id00003"),
        ("database", [3, 3], "database names 1 pictures: id00003 more than once"),
        ("database", [52], "database has rows 52..52; 'made' has 52 pictures"),
    ],
)
def test_overlap_of_rows_is_an_error(part, rows, message):
    dataset = make_dataset(40, 12, 4)
    protocol = make_protocol("holdout", dataset, seed=0)
    assert check_overlap(protocol, dataset) == []
    with pytest.raises(ValueError, match=message):
        check_overlap(dataclasses.replace(protocol, **{part: np.array(rows)}), dataset)


def test_identical_pictures_are_reported_but_no_error():
    pictures = np.random.default_rng(0).integers(0, 256, (52, 4, 4, 3), np.uint8)
    dataset = make_dataset(40, 12, 4, images=ArrayImages(pictures))
    protocol = make_protocol("holdout", dataset, seed=0)
    assert check_overlap(protocol, dataset, by_content=True) == []
    pictures[44] = pictures[7]
    pictures[8] = pictures[7]
    pictures[20] = pictures[21]  # both in the database: nobody's leak
    with pytest.warns(
        UserWarning, match="2 pairs of identical pictures in query and database: id00044 = id00007"
    ):
        twins = check_overlap(protocol, dataset, by_content=True)
    assert twins == [("id00044", "id00007"), ("id00044", "id00008")]
    pictures[7, 0, 0, 0] ^= 1
    pictures[8, 3, 3, 2] ^= 1
    assert check_overlap(protocol, dataset, by_content=True) == []


def test_saved_and_loaded(tmp_path):
    dataset = make_dataset(40, 12, 4)
    protocol = make_protocol("holdout", dataset, seed=5, validation_per_class=2)
    save_protocol(protocol, tmp_path / "sub/split.v1")
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == ["split.v1.json", "split.v1.npz"]
    loaded = load_protocol(tmp_path / "sub/split.v1", dataset)
    for field in dataclasses.fields(protocol):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(protocol, field.name))
    assert loaded.ks == protocol.ks


def test_a_changed_or_foreign_file_is_refused(tmp_path):
    dataset = make_dataset(40, 12, 4)
    save_protocol(make_protocol("holdout", dataset, seed=5), tmp_path / "a")
    save_protocol(make_protocol("holdout", dataset, seed=5, validation_per_class=1), tmp_path / "b")
    other = dataclasses.replace(dataset, fingerprint="0" * 64)
    with pytest.raises(ValueError, match="made for data ffffffffffff, 'made' is 000000000000"):
        load_protocol(tmp_path / "a", other)
    (tmp_path / "b.npz").replace(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="checksum"):
        load_protocol(tmp_path / "a", dataset)
    with pytest.raises(FileNotFoundError, match="b.npz"):
        load_protocol(tmp_path / "b", dataset)
