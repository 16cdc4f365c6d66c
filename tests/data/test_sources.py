"""Data sets: in memory and lazily the same, from disk alone, with errors that say what to do."""

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kdhash.data import ArrayImages, batches, load_dataset, subset
from kdhash.data.pictures import decode_picture


def test_rows_labels_ids_and_pictures_belong_together(tiny):
    data_dir, by_id = tiny
    dataset = load_dataset("tiny", data_dir)
    assert len(dataset) == len(dataset.images) == len(dataset.ids) == 42
    assert dataset.splits == {"train": range(30), "test": range(30, 42)}
    assert dataset.class_names == ("class 0", "class 1", "class 2")
    assert dataset.labels.dtype == np.int32
    assert dataset.images.image_shape == (8, 8, 3)
    pictures = dataset.images[np.arange(42)]
    for row, identity in enumerate(dataset.ids):
        np.testing.assert_array_equal(pictures[row], by_id[identity])
        assert dataset.labels[row] == int(identity[-3:]) % 3
        assert row in dataset.splits[identity.split("_")[0]]


def test_lazily_decoded_is_the_same(tiny):
    now, later = load_dataset("tiny", tiny[0]), load_dataset("tiny", tiny[0], in_memory=False)
    assert now.fingerprint == later.fingerprint
    assert list(now.ids) == list(later.ids)
    np.testing.assert_array_equal(now.labels, later.labels)
    for rows in ([41, 0, 29, 30, 0], [], [5], list(range(42))[::-1]):
        pictures = later.images[np.array(rows, np.int64)]
        assert pictures.dtype == np.uint8
        assert pictures.shape == (len(rows), 8, 8, 3)
        np.testing.assert_array_equal(pictures, now.images[np.array(rows, np.int64)])


def test_lazily_decoded_does_not_decode_at_loading(tiny, monkeypatch):
    calls = []
    monkeypatch.setattr("kdhash.data.pictures.decode_picture", lambda *args: calls.append(args))
    load_dataset("tiny", tiny[0], in_memory=False)
    assert not calls


def test_lazily_decoded_from_many_threads(tiny):
    now, later = load_dataset("tiny", tiny[0]), load_dataset("tiny", tiny[0], in_memory=False)
    rows = [np.random.default_rng(seed).integers(0, 42, 20) for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        for wanted, pictures in zip(rows, pool.map(later.images.__getitem__, rows), strict=True):
            np.testing.assert_array_equal(pictures, now.images[wanted])


def test_small_pictures_need_no_threads(tiny, write_random, tmp_path):
    write_random(tmp_path, "large", size=64, sizes={"train": 3})
    for name, data_dir, size, threaded in (
        ("tiny", tiny[0], None, False),
        ("tiny", tiny[0], 6, True),  # files may be of any size before
        ("large", tmp_path, None, True),
    ):
        images = load_dataset(name, data_dir, image_size=size, in_memory=False).images
        assert len(images[np.arange(3)]) == 3
        assert (images._pool is not None) is threaded, name


@pytest.mark.parametrize("in_memory", [True, False])
def test_bad_rows(tiny, in_memory):
    images = load_dataset("tiny", tiny[0], in_memory=in_memory).images
    for rows in ([42], [-1]):
        with pytest.raises(IndexError, match="data set of 42"):
            images[np.array(rows)]
    with pytest.raises(ValueError, match="vector of integers"):
        images[np.array([0.5])]
    with pytest.raises(ValueError, match="vector of integers"):
        images[np.array([[1]])]


@pytest.mark.parametrize("in_memory", [True, False])
def test_image_size(tiny, in_memory):
    dataset = load_dataset("tiny", tiny[0], image_size=6, in_memory=in_memory)
    assert dataset.images.image_shape == (6, 6, 3)
    assert dataset.images[np.array([3, 1])].shape == (2, 6, 6, 3)
    assert dataset.fingerprint != load_dataset("tiny", tiny[0]).fingerprint
    assert (
        load_dataset("tiny", tiny[0], image_size=8).fingerprint == load_dataset("tiny", tiny[0]).fingerprint
    )


def test_fingerprint_changes_with_anything_in_the_data(tmp_path, tiny, write_random):
    variants = {
        "same": {},
        "pixels": {"seed": 1},
        "sizes": {"sizes": {"train": 29, "test": 13}},
        "classes": {"classes": 4},
        "ids": {"ids": lambda split, number: f"{split}-{number}"},
        "version": {"version": "1.0.1"},
    }
    found = {}
    for name, options in variants.items():
        write_random(tmp_path / name, **options)
        found[name] = load_dataset("tiny", tmp_path / name).fingerprint
    assert found["same"] == load_dataset("tiny", tiny[0]).fingerprint
    assert len(set(found.values())) == len(variants)


def test_newest_version_unless_named(tmp_path, write_random):
    for version, train in (("1.2.0", 5), ("1.10.0", 7)):
        write_random(tmp_path, version=version, sizes={"train": train, "test": 3})
    assert len(load_dataset("tiny", tmp_path)) == 10
    assert len(load_dataset("tiny/1.2.0", tmp_path)) == 8


def test_ids_are_unique_even_where_the_splits_number_alike(tmp_path, write_random):
    write_random(tmp_path, ids=lambda split, number: str(number))
    ids = load_dataset("tiny", tmp_path).ids
    assert len(set(ids)) == 42
    assert {"train/7", "test/7"} <= set(ids)


def test_train_comes_first(tmp_path, write_random):
    write_random(tmp_path, sizes={"extra": 4, "test": 3, "train": 5})
    splits = load_dataset("tiny", tmp_path).splits
    assert splits == {"train": range(5), "extra": range(5, 9), "test": range(9, 12)}


def test_missing_data_says_what_is_there_and_what_to_do(tiny, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no data set 'cifar11' .*there: tiny; built in: digits.*prepare"
    ):
        load_dataset("cifar11", tiny[0])
    with pytest.raises(FileNotFoundError, match="there: none"):
        load_dataset("cifar10", tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist.*python -m kdhash prepare"):
        load_dataset("cifar10", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="'cifar10' needs data_dir"):
        load_dataset("cifar10", None)


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_other_features_and_formats_are_named(tmp_path, write_random):
    write_random(tmp_path / "a")
    folder = tmp_path / "a/tiny/1.0.0"

    def rename(content):
        features = content["featuresDict"]["features"]
        features["tags"] = features.pop("label")

    edit_json(folder / "features.json", rename)
    with pytest.raises(
        ValueError, match=r"no feature 'label' of kind ClassLabel; it has: .*tags \(ClassLabel\)"
    ):
        load_dataset("tiny", tmp_path / "a")
    write_random(tmp_path / "b")
    edit_json(
        tmp_path / "b/tiny/1.0.0/dataset_info.json", lambda content: content.update(fileFormat="tfrecord")
    )
    with pytest.raises(ValueError, match="stored as tfrecord; kdhash reads array_record"):
        load_dataset("tiny", tmp_path / "b")


def test_several_configurations_must_be_named(tmp_path, write_random):
    for config in ("small", "large"):
        write_random(tmp_path / "made" / config)
        (tmp_path / "data/set" / config).mkdir(parents=True)
        (tmp_path / "made" / config / "tiny/1.0.0").rename(tmp_path / "data/set" / config / "1.0.0")
    with pytest.raises(ValueError, match="several configurations; name one of: set/large, set/small"):
        load_dataset("set", tmp_path / "data")
    assert len(load_dataset("set/small", tmp_path / "data")) == 42


def test_array_images_refuses_other_arrays():
    with pytest.raises(ValueError, match="uint8"):
        ArrayImages(np.zeros((2, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match=r"\(2, 4, 4\)"):
        ArrayImages(np.zeros((2, 4, 4), np.uint8))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("rows", [[41, 0, 29, 30], [7], [], list(range(42))])
def test_subset_is_the_rows_in_that_order(tiny, in_memory, rows):
    dataset = load_dataset("tiny", tiny[0], in_memory=in_memory)
    rows = np.array(rows, np.int32)
    chosen = subset(dataset, rows)
    assert len(chosen) == len(chosen.images) == len(chosen.ids) == len(rows)
    assert chosen.name == "tiny"
    assert chosen.class_names == dataset.class_names
    assert chosen.splits == {"all": range(len(rows))}
    assert chosen.images.image_shape == (8, 8, 3)
    assert chosen.labels.dtype == np.int32
    np.testing.assert_array_equal(chosen.labels, dataset.labels[rows])
    assert list(chosen.ids) == [dataset.ids[row] for row in rows]
    places = np.random.default_rng(0).permutation(len(rows))
    pictures = chosen.images[places]
    assert pictures.shape == (len(rows), 8, 8, 3)
    np.testing.assert_array_equal(pictures, dataset.images[rows[places]])


def test_subset_fetches_only_what_is_asked_for(tiny, monkeypatch):
    chosen = subset(load_dataset("tiny", tiny[0], in_memory=False), np.arange(10, 40))
    calls = []
    monkeypatch.setattr(
        "kdhash.data.pictures.decode_picture", lambda *args: calls.append(0) or decode_picture(*args)
    )
    assert not calls
    chosen.images[np.array([3, 29])]
    assert len(calls) == 2


def test_subset_fingerprint_is_of_the_parent_and_the_rows(tiny, tmp_path, write_random):
    dataset = load_dataset("tiny", tiny[0])
    write_random(tmp_path, seed=1)
    rows = np.array([5, 2, 9])
    expected = hashlib.sha256(dataset.fingerprint.encode() + np.array([5, 2, 9], "<i8").tobytes()).hexdigest()
    for kind in (np.int64, np.int32, np.uint8, ">i8"):
        assert subset(dataset, rows.astype(kind)).fingerprint == expected
    others = {
        dataset.fingerprint,
        subset(dataset, rows[::-1]).fingerprint,
        subset(dataset, rows[:2]).fingerprint,
        subset(dataset, np.arange(42)).fingerprint,
        subset(load_dataset("tiny", tmp_path), rows).fingerprint,
    }
    assert len(others | {expected}) == 6


def test_subset_of_a_subset_and_in_batches(tiny):
    dataset = load_dataset("tiny", tiny[0])
    inner = subset(subset(dataset, np.arange(41, 9, -1)), np.array([0, 31, 5]))
    assert list(inner.ids) == [dataset.ids[row] for row in (41, 10, 36)]
    np.testing.assert_array_equal(inner.images[np.arange(3)], dataset.images[np.array([41, 10, 36])])

    def fetch(rows):
        return {"image": inner.images[rows], "label": inner.labels[rows]}

    batch = batches(fetch, np.arange(3), batch_size=3, seed=0)[0]
    assert sorted(batch["label"]) == sorted(dataset.labels[[41, 10, 36]])


def test_subset_does_not_change_with_the_callers_rows(tiny):
    dataset = load_dataset("tiny", tiny[0])
    rows = np.array([3, 1])
    chosen = subset(dataset, rows)
    rows[:] = 0
    np.testing.assert_array_equal(chosen.images[np.arange(2)], dataset.images[np.array([3, 1])])


def test_subset_refuses_bad_rows(tiny):
    dataset = load_dataset("tiny", tiny[0])
    for rows in ([42], [-1]):
        with pytest.raises(IndexError, match="data set of 42"):
            subset(dataset, np.array(rows))
    for rows in ([0.5], [[1]], [True]):
        with pytest.raises(ValueError, match="vector of integers"):
            subset(dataset, np.array(rows))
    with pytest.raises(ValueError, match="rows names 2 rows twice or more, 4 first"):
        subset(dataset, np.array([9, 4, 1, 4, 9]))
    with pytest.raises(IndexError, match="data set of 2"):
        subset(dataset, np.array([9, 4])).images[np.array([2])]


def test_digits():
    from sklearn.datasets import load_digits

    dataset = load_dataset("digits", None)
    bunch = load_digits()
    assert len(dataset) == 1797
    assert dataset.images.image_shape == (8, 8, 3)
    assert len(dataset.splits["train"]) + len(dataset.splits["test"]) == 1797
    pictures = dataset.images[np.arange(1797)]
    assert pictures.max() == 255
    for row in (0, 1000, 1500, 1796):
        source = int(dataset.ids[row].split("/")[1])
        assert dataset.labels[row] == bunch.target[source]
        np.testing.assert_array_equal(pictures[row, ..., 1], np.rint(bunch.images[source] * 255 / 16))
    test = np.array(dataset.splits["test"])
    counts = np.bincount(dataset.labels[test])
    assert (counts == np.bincount(dataset.labels) // 5).all()
    assert dataset.fingerprint == load_dataset("digits", "ignored").fingerprint


def test_digits_can_be_enlarged():
    dataset = load_dataset("digits", None, image_size=16)
    assert dataset.images[np.array([5])].shape == (1, 16, 16, 3)
    assert dataset.fingerprint != load_dataset("digits", None).fingerprint


def test_no_tensorflow_no_torch_no_noise(tiny):
    program = (
        "import sys, socket\n"
        "socket.socket.connect = socket.getaddrinfo = None\n"
        "import numpy as np\n"
        "from kdhash.data import load_dataset, batches, make_protocol\n"
        f"dataset = load_dataset('tiny', {str(tiny[0])!r}, in_memory=False)\n"
        "dataset.images[np.arange(42)]\n"
        "make_protocol('holdout', dataset, seed=0)\n"
        "batches(lambda rows: {}, np.arange(9), batch_size=3, seed=0)[0]\n"
        "print(sorted({'tensorflow', 'torch', 'clu'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert not done.stderr


def test_shared_cifar10(shared):
    """The real thing: published sizes, balance, and the first pictures of the registered set."""
    if not (shared / "data/cifar10").is_dir():
        pytest.skip("no cifar10 in the shared folder")
    dataset = load_dataset("cifar10", shared / "data", in_memory=False)
    assert dataset.splits == {"train": range(50_000), "test": range(50_000, 60_000)}
    assert dataset.class_names[3] == "cat"
    assert (np.bincount(dataset.labels[:50_000]) == 5000).all()
    assert dataset.ids[0] == "train_16399"
    assert dataset.images[np.array([59_999, 0])].shape == (2, 32, 32, 3)
