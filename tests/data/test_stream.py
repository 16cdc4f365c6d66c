"""Pictures opened by a path alone, without holding them."""

import numpy as np
import pytest
from PIL import Image

from kdhash.data import load_dataset
from kdhash.data.prepare_folder import prepare_folder
from kdhash.data.stream import open_pictures
from kdhash.data.write_tfds import encode_png, write_dataset

RNG = np.random.default_rng(0)


def picture(*side):
    return RNG.integers(0, 255, (*side, 3), dtype=np.uint8)


@pytest.fixture
def files(tmp_path):
    for name in ("b/2.png", "b/1.JPG", "a/deeper/x.png", "z.png", ".hidden/y.png", "a/.z.png"):
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(9, 7)).save(path)
    return tmp_path / "files"


def test_files_in_the_order_of_their_names(files):
    stream = open_pictures(files)
    assert [stream.name(row) for row in range(len(stream))] == [
        "a/deeper/x.png",
        "b/1.JPG",
        "b/2.png",
        "z.png",
    ]
    pictures, reasons = stream.images.fitted(np.array([3, 0]), lambda found: found[:5, :5], 5)
    np.testing.assert_array_equal(pictures[0], np.asarray(Image.open(files / "z.png"))[:5, :5])
    np.testing.assert_array_equal(pictures[1], np.asarray(Image.open(files / "a/deeper/x.png"))[:5, :5])
    assert reasons == ["", ""]


def test_fingerprint_changes_with_pixels_and_names(files):
    before = open_pictures(files).fingerprint
    assert open_pictures(files).fingerprint == before
    (files / "z.png").rename(files / "zz.png")
    renamed = open_pictures(files).fingerprint
    Image.fromarray(picture(9, 7)).save(files / "zz.png")
    assert len({before, renamed, open_pictures(files).fingerprint}) == 3


def test_a_tfds_folder_has_the_fingerprint_and_pictures_of_load_dataset(tmp_path):
    for class_name in "ab":
        for number in range(4):
            path = tmp_path / "pictures" / class_name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(8, 8)).save(path)
    prepare_folder(tmp_path / "pictures", "mine", tmp_path / "data", size=8)
    dataset = load_dataset("mine", tmp_path / "data")
    stream = open_pictures(tmp_path / "data" / "mine")
    assert stream.fingerprint == dataset.fingerprint
    rows = np.arange(len(dataset))
    np.testing.assert_array_equal(stream.images[rows], dataset.images[rows])
    assert [stream.name(row) for row in (0, 6)] == ["train/0", "test/0"]
    part = open_pictures(tmp_path / "data" / "mine" / "1.0.0", splits=["test"])
    np.testing.assert_array_equal(part.images[np.arange(2)], dataset.images[np.array(dataset.splits["test"])])
    assert part.fingerprint != stream.fingerprint
    with pytest.raises(ValueError, match="no split 'val'; it has train, test"):
        open_pictures(tmp_path / "data" / "mine", splits=["val"])


def test_a_tfds_folder_of_pictures_of_any_size(tmp_path):
    pictures = [picture(5, 6), picture(7, 4)]
    examples = [
        (key, {"id": str(key), "image": encode_png(found), "label": 0}) for key, found in enumerate(pictures)
    ]
    write_dataset(
        tmp_path,
        "loose",
        "1.0.0",
        image_shape=(None, None, 3),
        label_names={"label": ["one"]},
        splits={"train": examples},
        about={},
    )
    stream = open_pictures(tmp_path / "loose")
    seen = []
    stream.images.fitted(np.array([1, 0]), lambda found: seen.append(found) or found[:2, :2], 2)
    assert sorted(found.tobytes() for found in seen) == sorted(found.tobytes() for found in pictures)


def test_what_cannot_be_opened_says_so(files, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no picture files"):
        open_pictures(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no folder"):
        open_pictures(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no splits"):
        open_pictures(files, splits=["train"])
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        open_pictures(files, on_error="ignore")
