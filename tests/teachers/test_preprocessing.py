"""What a network sees, against Pillow."""

import jax
import numpy as np
import PIL
import pytest
from PIL import Image

from kdhash.teachers.preprocessing import (
    IMAGENET,
    Preprocessing,
    preprocess,
    read_preprocessing,
    read_timm_preprocessing,
    resize,
)

PILLOW = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
RNG = np.random.default_rng(0)


def smooth(height, width):
    noise = RNG.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("interpolation", PILLOW)
@pytest.mark.parametrize(
    ("source", "target"), [((32, 32), (224, 224)), ((61, 47), (33, 64)), ((300, 200), (97, 31)), ((16, 16), (16, 40))]
)  # fmt: skip
@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_resize_equals_pillow(interpolation, source, target, kind):
    if int(PIL.__version__.split(".")[0]) < 13 and source[0] * target[1] != source[1] * target[0]:
        pytest.skip("earlier Pillows made the two passes in another order")
    picture = smooth(*source) if kind == "smooth" else RNG.integers(0, 256, (*source, 3), np.uint8)
    expected = Image.fromarray(picture).resize(target[::-1], PILLOW[interpolation])
    ours = jax.jit(resize, static_argnums=(1, 2))(picture[None] / np.float32(255), target, interpolation)
    np.testing.assert_array_equal(np.round(np.asarray(ours[0]) * 255), np.asarray(expected))


def test_shorter_side_then_centre():
    picture = smooth(40, 60)
    wanted = Preprocessing(size=24, resize=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), channels="bgr")
    expected = np.asarray(Image.fromarray(picture).resize((48, 32), Image.Resampling.BILINEAR))
    expected = expected[4:28, 12:36, ::-1] / 255
    np.testing.assert_allclose(preprocess(picture[None] / np.float32(255), wanted)[0], expected, atol=1e-6)


def test_pictures_of_the_right_size_are_only_normalised():
    pictures = RNG.random((2, 224, 224, 3), dtype=np.float32)
    expected = (pictures - np.float32(IMAGENET.mean)) / np.float32(IMAGENET.std)
    np.testing.assert_allclose(preprocess(pictures, IMAGENET), expected, atol=1e-6)


def test_unknown_interpolation_is_named():
    with pytest.raises(ValueError, match="'cubic' is unknown; choose one of nearest"):
        resize(np.zeros((1, 4, 4, 3), np.float32), (8, 8), "cubic")


def test_timm_configs():
    config = {
        "input_size": [3, 288, 288],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    assert read_timm_preprocessing(config) == Preprocessing(288, 303, "bicubic", (0.5,) * 3, (0.25,) * 3)
    assert read_timm_preprocessing(config | {"crop_mode": "squash"}).resize is None
    with pytest.raises(ValueError, match="crop_mode 'border'"):
        read_timm_preprocessing(config | {"crop_mode": "border"})


MEAN = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}


@pytest.mark.parametrize(
    ("config", "size", "shorter", "interpolation"),
    [
        ({"size": {"height": 192, "width": 192}, "resample": 2}, 192, None, "bilinear"),
        ({"size": 224, "resample": 3, "do_center_crop": False}, 224, None, "bicubic"),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224}}, 224, 256, "bilinear"),
        ({"size": 224, "do_center_crop": True, "crop_size": 224, "resample": 3}, 224, 224, "bicubic"),
        ({"size": {"shortest_edge": 224}, "resample": 1}, 224, None, "lanczos"),
        # ConvNeXt's rule
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3}, 224, 256, "bicubic"),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875, "resample": 3}, 384, None, "bicubic"),
    ],
)  # fmt: skip
def test_preprocessor_configs(config, size, shorter, interpolation):
    read = read_preprocessing(config | MEAN)
    assert (read.size, read.resize, read.interpolation) == (size, shorter, interpolation)
    assert (read.mean, read.std) == ((0.5,) * 3, (0.25,) * 3)
    assert read_preprocessing(config | MEAN | {"do_normalize": False}).std == (1.0,) * 3
    assert read_preprocessing(config | MEAN | {"include_top": True}).std == (0.0625,) * 3
    assert read_preprocessing(config | MEAN | {"do_flip_channel_order": True}).channels == "bgr"


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"do_resize": False}, "do_resize"),
        ({"do_rescale": False}, "do_rescale"),
        ({"rescale_offset": True}, "rescale_offset"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"rescale_factor": 1.0}, "rescale_factor"),
        ({"resample": 9}, "resample"),
        ({"size": {"height": 10, "width": 12}}, "size"),
    ],
)
def test_what_cannot_be_expressed_is_named(config, field):
    with pytest.raises(ValueError, match=field):
        read_preprocessing(MEAN | config)
