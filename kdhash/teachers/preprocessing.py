"""What a teacher wants done to a picture before it sees it: part of the teacher, done on the device."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic")  # places: Pillow's codes 0 to 3
FRACTION_BITS = 22  # of Pillow's weights for 8-bit pictures
# transformers' image processors to which a bare number as `size` is the shorter side, of those that networks known here come
# with; to its others it is both sides.
SHORTER_SIDE = ("Bit", "CLIP", "ConvNext", "MobileNetV1", "MobileNetV2", "Siglip")


class Preprocessing(NamedTuple):
    """From pictures in [0, 1] to a network's input: resize, cut the centre, channel order, mean and std."""

    size: int = 224  # the network sees size x size
    # The shorter side is brought to this length, then the centre is cut, whatever size a picture has. None: the whole
    # picture straight to size x size, without a cut, as a config's 'image_size' asks for.
    resize: int | None = None
    interpolation: str = "bilinear"  # 'bilinear', 'bicubic', 'lanczos', 'nearest': Pillow's, so antialiased
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    channels: str = "rgb"  # or 'bgr'
    squash: bool = False  # both sides are brought to `resize`, not the shorter one
    # Where the cut starts when an odd number of pixels is left over: at the 'floor' of half of them, as in transformers,
    # or 'round' to the even neighbour, as in torchvision and timm.
    cut: str = "floor"

    def recipe(self) -> dict[str, Any]:
        """What a cache's key is made from: the fields, less `squash` and `cut` where they leave pictures as they were before
        there were such fields."""
        fields = self._asdict()
        if self.resize is None or not self.squash:
            del fields["squash"]
        if self.resize is None or self.cut == "floor":
            del fields["cut"]
        return fields


IMAGENET = Preprocessing(resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), cut="round")


class Fitted(NamedTuple):
    """Pictures in [0, 1] that were resized and cut before (`extract.fit_picture`): `preprocess` does the rest."""

    pictures: Float[Array, "batch size size 3"]


def preprocess(
    pictures: Float[Array, "batch h w 3"] | Fitted, wanted: Preprocessing
) -> Float[Array, "batch size size 3"]:
    """Pictures in [0, 1] to what the network sees. Raises ValueError as `steps` does."""
    if isinstance(pictures, Fitted):
        pictures = pictures.pictures
    else:
        shape, (top, left) = steps(pictures.shape[1], pictures.shape[2], wanted)
        if shape != pictures.shape[1:3]:  # views of pictures that need no resizing are not rounded to 8 bits
            pictures = resize(pictures, shape, wanted.interpolation)
        pictures = pictures[:, top : top + wanted.size, left : left + wanted.size]
    if wanted.channels == "bgr":
        pictures = pictures[..., ::-1]
    return (pictures - jnp.asarray(wanted.mean, pictures.dtype)) / jnp.asarray(wanted.std, pictures.dtype)


def steps(height: int, width: int, wanted: Preprocessing) -> tuple[tuple[int, int], tuple[int, int]]:
    """What a picture of that size is resized to, (height, width), and where its cut starts, (top, left).

    Raises ValueError for a `resize` below `size`. Sources: get_resize_output_image_size and center_crop of transformers,
    Resize and center_crop of torchvision, which timm uses.
    """
    if wanted.resize is None:
        return (wanted.size, wanted.size), (0, 0)
    if wanted.resize < wanted.size:
        raise ValueError(f"resize is {wanted.resize}, less than size, {wanted.size}: nothing is left to cut")
    if wanted.squash:
        height = width = wanted.resize
    else:
        short = min(height, width)
        height, width = (int(side * wanted.resize / short) for side in (height, width))
    top, left = (
        round(over / 2) if wanted.cut == "round" else over // 2
        for over in (height - wanted.size, width - wanted.size)
    )
    return (height, width), (top, left)


def resize(
    pictures: Float[Array, "batch h w 3"], size: tuple[int, int], interpolation: str
) -> Float[Array, "batch h2 w2 3"]:
    """Pictures in [0, 1] to size (h2, w2), equal to Pillow 13's Image.resize of the 8-bit picture: in whole numbers, two
    passes, each rounded to 8 bits. Raises ValueError for an unknown interpolation.

    The pass across comes first, unless the height loses more than twice as many pixels as the width (Pillow's Resample.c,
    ImagingResampleInner). Pillow 11 and 12 went across first; there such pictures differ, by 1 of 255 where
    'bilinear', by tens where 'bicubic' or 'lanczos', whose overshoot is cut off in between.
    """
    x = jnp.round(pictures * 255).astype(jnp.int32)
    height, width = x.shape[1:3]
    passes = [(2, size[1]), (1, size[0])]
    if height - size[0] > max(0, 2 * (width - size[1])):
        passes.reverse()
    for axis, length in passes:
        if x.shape[axis] == length:
            continue
        places, weights = taps(x.shape[axis], length, interpolation)
        shape = [length if i == axis else 1 for i in range(4)]
        total = sum(
            jnp.take(x, places[:, k], axis=axis) * weights[:, k].reshape(shape)
            for k in range(places.shape[1])
        )
        x = jnp.clip((total + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS, 0, 255)
    return x.astype(jnp.float32) / 255


def taps(
    length: int, wanted: int, interpolation: str
) -> tuple[Int32[np.ndarray, "wanted taps"], Int32[np.ndarray, "wanted taps"]]:
    """For each place of the result of one pass: the places that it reads, and their weights times 2 ** 22.

    When shrinking, the filter widens with the scale (antialiasing). Source: Pillow's Resample.c (precompute_coeffs,
    normalize_coeffs_8bpc) and, for 'nearest', Geometry.c. Raises ValueError for an unknown interpolation.
    """
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"interpolation {interpolation!r} is unknown; choose one of {', '.join(INTERPOLATIONS)}"
        )
    scale = length / wanted
    if interpolation == "nearest":
        steps = np.full(wanted, scale)
        steps[0] = scale / 2
        places = np.cumsum(steps).astype(np.int32)[:, None]  # summed up as Pillow does: it decides at edges
        return places, np.full_like(places, 1 << FRACTION_BITS)
    kernel, support = {"bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0), "lanczos": (_lanczos, 3.0)}[
        interpolation
    ]
    stretch = max(scale, 1.0)
    support *= stretch
    centres = (np.arange(wanted)[:, None] + 0.5) * scale
    first = np.maximum(np.trunc(centres - support + 0.5), 0)
    last = np.minimum(np.trunc(centres + support + 0.5), length)
    places = first + np.arange(2 * int(np.ceil(support)) + 1)
    weights = kernel((places - centres + 0.5) * (1 / stretch))
    weights = np.where(places < last, weights, 0.0)
    scaled = weights / weights.sum(axis=1, keepdims=True) * (1 << FRACTION_BITS)
    whole = np.trunc(scaled + np.copysign(0.5, scaled))
    return np.minimum(places, length - 1).astype(np.int32), whole.astype(np.int32)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


def read_preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    """What a transformers preprocessor_config.json asks for. Raises ValueError naming a field that cannot be expressed."""
    size, crop = config.get("size", 224), config.get("crop_size")
    for field, only in (
        ("do_resize", True),
        ("do_rescale", True),
        ("rescale_offset", False),
    ):
        if config.get(field, only) != only:
            raise ValueError(
                f"preprocessor_config.json: {field} is {config[field]!r}; only {only!r} is known"
            )
    normalized = config.get("do_normalize", True)
    for field in ("image_mean", "image_std"):
        if normalized and len(config.get(field) or ()) != 3:
            raise ValueError(f"preprocessor_config.json: {field} must hold three numbers")
    if not np.isclose(config.get("rescale_factor", 1 / 255), 1 / 255):
        raise ValueError(
            f"preprocessor_config.json: rescale_factor is {config['rescale_factor']}; only 1/255 is known"
        )
    code = config.get("resample", 2)
    if code not in range(len(INTERPOLATIONS)):
        raise ValueError(
            f"preprocessor_config.json: resample is {code}; known are {list(range(len(INTERPOLATIONS)))}"
        )
    squash = False
    if config.get("crop_pct") is not None:
        # ConvNeXt's rule: smaller pictures than 384 are cut from somewhat larger ones, others squeezed.
        final = _square("size", size)
        resized = int(final / config["crop_pct"]) if final < 384 else None
    elif config.get("do_center_crop"):
        resized, final = _square("size", size), _square("crop_size", crop if crop is not None else size)
        squash = _both_sides(config, size)
        if squash and resized == final:
            resized, squash = None, False
    else:
        resized, final = None, _square("size", size)
    if resized is not None and resized < final:
        raise ValueError(
            f"preprocessor_config.json: size is {size}, crop_size {crop} and crop_pct {config.get('crop_pct')}: pictures "
            "smaller than what is cut out of them are not known"
        )
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if normalized:
        mean, std = tuple(config["image_mean"]), tuple(config["image_std"])
        if config.get("include_top"):  # EfficientNet's: divided by the deviation once more
            std = (std[0] ** 2, std[1] ** 2, std[2] ** 2)
    return Preprocessing(
        size=final,
        resize=resized,
        interpolation=INTERPOLATIONS[code],
        mean=mean,
        std=std,
        channels="bgr" if config.get("do_flip_channel_order") else "rgb",
        squash=squash,
    )


def read_timm_preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    """What the 'pretrained_cfg' of a timm config.json asks for. Raises ValueError naming a field that cannot be expressed."""
    size = config["input_size"][-1]
    mode = config.get("crop_mode") or "center"
    if mode not in ("center", "squash") or config["input_size"][-2] != size:
        raise ValueError(
            f"config.json: pretrained_cfg wants crop_mode {mode!r} of {config['input_size']}; known are 'center' and "
            "'squash' to a square"
        )
    part = config.get("crop_pct") or 0.875
    resized = int(size / part)
    if resized < size:
        raise ValueError(f"config.json: pretrained_cfg has crop_pct {part}; only up to 1 is known")
    squash = mode == "squash" and resized != size
    return Preprocessing(
        size=size,
        resize=resized if mode == "center" or squash else None,
        interpolation=config.get("interpolation", "bilinear"),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        squash=squash,
        cut="round",
    )


def _both_sides(config: Mapping[str, Any], size: Any) -> bool:
    """Whether `size` is what both sides are brought to, not the shorter one: as transformers' get_size_dict decides, by the
    keys of `size` or else by the processor's class. Of old files that name no class, the shorter one."""
    if isinstance(size, Mapping):
        return "shortest_edge" not in size
    kind = config.get("image_processor_type") or config.get("feature_extractor_type")
    named = re.sub("(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", kind or SHORTER_SIDE[0])
    return named not in SHORTER_SIDE


def _square(field: str, size: Any) -> int:
    """224, {'height': 224, 'width': 224} or {'shortest_edge': 224} as 224."""
    if isinstance(size, Mapping):
        sides = {int(size[key]) for key in ("height", "width", "shortest_edge") if key in size}
        if len(sides) != 1:
            raise ValueError(f"preprocessor_config.json: {field} is {dict(size)}; only squares are known")
        return sides.pop()
    return int(size)
