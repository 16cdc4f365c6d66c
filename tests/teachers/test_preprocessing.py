"""What a network sees, against Pillow."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from kdhash.teachers.preprocessing import (
    IMAGENET,
    SHORTER_SIDE,
    Fitted,
    Preprocessing,
    preprocess,
    read_preprocessing,
    read_timm_preprocessing,
    resize,
)
from tests.teachers.families.parity import need

PILLOW = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
RNG = np.random.default_rng(0)


def smooth(height, width):
    noise = RNG.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("interpolation", PILLOW)
@pytest.mark.parametrize(
    ("source", "target"), [((32, 32), (224, 224)), ((61, 47), (33, 64)), ((300, 200), (97, 31)), ((16, 16), (16, 40)),
     ((53, 40), (42, 32)), ((90, 30), (48, 16)), ((48, 32), (20, 31)), ((30, 40), (33, 47))]
)  # fmt: skip
@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_resize_equals_pillow(interpolation, source, target, kind):
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


RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.mark.parametrize("side", [(24, 24), (32, 32), (40, 60), (60, 41)])
def test_squashed_then_centre(side):
    picture = smooth(*side)
    wanted = Preprocessing(size=24, resize=32, interpolation="bicubic", squash=True, **RAW)
    expected = (
        np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BICUBIC))[4:28, 4:28] / 255
    )
    np.testing.assert_allclose(preprocess(picture[None] / np.float32(255), wanted)[0], expected, atol=1e-6)


def test_a_picture_of_the_networks_size_is_resized_and_cut_like_any_other():
    picture = smooth(24, 24)
    expected = (
        np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BILINEAR))[4:28, 4:28] / 255
    )
    seen = preprocess(picture[None] / np.float32(255), Preprocessing(size=24, resize=32, **RAW))
    np.testing.assert_allclose(seen[0], expected, atol=1e-6)


@pytest.mark.parametrize(("cut", "top", "left"), [("floor", 1, 2), ("round", 2, 2)])
def test_where_the_cut_starts(cut, top, left):
    """3 and 5 pixels are left over: halves of 1.5 and 2.5, whose even neighbour is 2."""
    picture = RNG.random((1, 8, 10, 3), dtype=np.float32)
    seen = preprocess(picture, Preprocessing(size=5, resize=8, cut=cut, **RAW))
    np.testing.assert_array_equal(seen, picture[:, top : top + 5, left : left + 5])


def test_whole_pictures_of_the_right_size_and_fitted_ones_are_only_normalised():
    pictures = RNG.random((2, 32, 32, 3), dtype=np.float32)
    expected = (pictures - np.float32(IMAGENET.mean)) / np.float32(IMAGENET.std)
    np.testing.assert_allclose(
        preprocess(pictures, IMAGENET._replace(size=32, resize=None)), expected, atol=1e-6
    )
    fitted = jax.jit(lambda pictures: preprocess(pictures, IMAGENET._replace(size=32)))(Fitted(pictures))
    np.testing.assert_allclose(fitted, expected, atol=1e-6)


def test_a_cut_of_more_than_there_is_is_refused():
    with pytest.raises(ValueError, match="resize is 200, less than size, 224"):
        preprocess(np.zeros((1, 300, 300, 3), np.float32), Preprocessing(size=224, resize=200))


def test_keys_of_caches_only_change_where_pictures_do():
    fields = {"size": 224, "resize": 256, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert Preprocessing(resize=256).recipe() == fields | {"channels": "rgb"}
    assert Preprocessing(cut="round", squash=True).recipe() == fields | {"channels": "rgb", "resize": None}
    assert Preprocessing(resize=256, cut="round").recipe() == fields | {"channels": "rgb", "cut": "round"}
    assert Preprocessing(resize=256, squash=True).recipe() == fields | {"channels": "rgb", "squash": True}


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
    read = Preprocessing(288, 303, "bicubic", (0.5,) * 3, (0.25,) * 3, cut="round")
    assert read_timm_preprocessing(config) == read
    assert read_timm_preprocessing(config | {"crop_mode": "squash"}) == read._replace(squash=True)
    whole = read_timm_preprocessing(config | {"crop_mode": "squash", "crop_pct": 1.0})
    assert whole == read._replace(resize=None)
    with pytest.raises(ValueError, match="crop_pct 1.1"):
        read_timm_preprocessing(config | {"crop_pct": 1.1})
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


TO_224 = {"do_center_crop": True, "crop_size": 224}


@pytest.mark.parametrize(
    ("config", "shorter", "squash"),
    [
        ({"size": {"height": 256, "width": 256}, "image_processor_type": "DeiTImageProcessor"}, 256, True),
        ({"size": {"height": 224, "width": 224}, "image_processor_type": "DeiTImageProcessor"}, None, False),
        ({"size": 256, "feature_extractor_type": "DeiTFeatureExtractor"}, 256, True),
        ({"size": 256, "image_processor_type": "ViTImageProcessorFast"}, 256, True),
        ({"size": 224, "feature_extractor_type": "ViTFeatureExtractor"}, None, False),
        ({"size": 256, "feature_extractor_type": "CLIPFeatureExtractor"}, 256, False),
        ({"size": 256, "image_processor_type": "CLIPImageProcessor"}, 256, False),
        ({"size": {"shortest_edge": 256}, "image_processor_type": "DeiTImageProcessor"}, 256, False),
        ({"size": 256}, 256, False),
    ],
)
def test_a_number_as_size_means_what_the_processor_takes_it_for(config, shorter, squash):
    read = read_preprocessing(MEAN | TO_224 | config)
    assert (read.size, read.resize, read.squash, read.cut) == (224, shorter, squash, "floor")


@pytest.mark.parametrize("size", [{"shortest_edge": 224}, {"height": 224, "width": 224}, 224])
def test_a_cut_larger_than_the_picture_names_both_fields(size):
    with pytest.raises(ValueError, match="size is .*224.*crop_size 256"):
        read_preprocessing(MEAN | {"size": size, "do_center_crop": True, "crop_size": 256})


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


# Landscape, portrait, square; with an odd number of pixels left over at either side; as large as the network wants.
SIDES = [(38, 57), (67, 40), (40, 53), (53, 40), (45, 45), (28, 28), (32, 32), (29, 51)]


def assert_seen(picture, wanted, expected):
    seen = preprocess(picture[None] / np.float32(255), wanted)[0]
    assert seen.shape == expected.shape
    np.testing.assert_allclose(seen, expected, atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
def test_equal_to_torchvision(side):
    transforms = need("torchvision")[0].transforms
    picture = smooth(*side)
    reference = transforms.Compose(
        [
            transforms.Resize(32),
            transforms.CenterCrop(28),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET.mean, IMAGENET.std),
        ]
    )
    expected = reference(Image.fromarray(picture)).numpy().transpose(1, 2, 0)
    assert_seen(picture, IMAGENET._replace(size=28, resize=32), expected)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("crop_pct", [0.9, 0.875, 1.0])
def test_equal_to_timm(side, crop_mode, crop_pct):
    timm = need("timm")[0]
    how = {"crop_pct": crop_pct, "crop_mode": crop_mode, "interpolation": "bicubic"}
    how |= {"mean": IMAGENET.mean, "std": IMAGENET.std}
    picture = smooth(*side)
    expected = timm.data.create_transform((3, 28, 28), **how)(Image.fromarray(picture))
    wanted = read_timm_preprocessing(how | {"input_size": [3, 28, 28]})
    assert_seen(picture, wanted, expected.numpy().transpose(1, 2, 0))


PROCESSORS = (*SHORTER_SIDE, "ViT", "DeiT", "EfficientNet")


@pytest.mark.parametrize("side", [(300, 451), (427, 325), (224, 224), (256, 256)])
@pytest.mark.parametrize("name", PROCESSORS)
def test_equal_to_transformers_with_its_own_defaults(name, side):
    processor = getattr(need("transformers")[0], f"{name}ImageProcessorPil")()
    picture = smooth(*side)
    expected = processor(Image.fromarray(picture), return_tensors="np")["pixel_values"][0]
    assert_seen(
        picture, read_preprocessing(json.loads(processor.to_json_string())), expected.transpose(1, 2, 0)
    )


@pytest.mark.parametrize("side", [*SIDES[:4], (28, 28)])
@pytest.mark.parametrize("size", [32, 28, {"height": 32, "width": 32}, {"shortest_edge": 32}], ids=str)
@pytest.mark.parametrize("name", [name for name in PROCESSORS if name != "ConvNext"])
def test_equal_to_transformers_where_it_cuts(name, size, side):
    config = MEAN | {"size": size, "crop_size": 28, "do_center_crop": True, "resample": 3}
    processor = getattr(need("transformers")[0], f"{name}ImageProcessorPil")(**config)
    picture = smooth(*side)
    expected = processor(Image.fromarray(picture), return_tensors="np")["pixel_values"][0]
    config |= {"feature_extractor_type": f"{name}FeatureExtractor", "include_top": name == "EfficientNet"}
    assert_seen(picture, read_preprocessing(config), expected.transpose(1, 2, 0))


@pytest.mark.parametrize("side", SIDES)
def test_equal_to_transformers_by_convnexts_rule(side):
    config = MEAN | {"size": {"shortest_edge": 28}, "crop_pct": 0.875, "resample": 3}
    processor = need("transformers")[0].ConvNextImageProcessorPil(**config)
    picture = smooth(*side)
    expected = processor(Image.fromarray(picture), return_tensors="np")["pixel_values"][0]
    assert_seen(picture, read_preprocessing(config), expected.transpose(1, 2, 0))
