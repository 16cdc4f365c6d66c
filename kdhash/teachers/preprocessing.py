"""What a teacher wants done to a picture before it sees it: part of the teacher, done on the device."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic")  # places: Pillow's codes 0 to 3
FRACTION_BITS = 22  # of Pillow's weights for 8-bit pictures


class Preprocessing(NamedTuple):
    """From pictures in [0, 1] to a network's input: resize, cut the centre, channel order, mean and std."""

    size: int = 224  # the network sees size x size
    # The shorter side is brought to this length, then the centre is cut; None: straight to size x size.
    resize: int | None = None
    interpolation: str = "bilinear"  # 'bilinear', 'bicubic', 'lanczos', 'nearest': Pillow's, so antialiased
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    channels: str = "rgb"  # or 'bgr'


IMAGENET = Preprocessing(resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def preprocess(
    pictures: Float[Array, "batch h w 3"], wanted: Preprocessing
) -> Float[Array, "batch size size 3"]:
    """Pictures in [0, 1] to what the network sees. Pictures that have the network's size already are not resized or cut.

    The centre cut starts at floor((side - size) / 2), as transformers does.
    """
    height, width = pictures.shape[1:3]
    if (height, width) != (wanted.size, wanted.size):
        if wanted.resize is None:
            height = width = wanted.size
        else:
            short = min(height, width)
            height, width = (int(side * wanted.resize / short) for side in (height, width))
        pictures = resize(pictures, (height, width), wanted.interpolation)
        top, left = (height - wanted.size) // 2, (width - wanted.size) // 2
        pictures = pictures[:, top : top + wanted.size, left : left + wanted.size]
    if wanted.channels == "bgr":
        pictures = pictures[..., ::-1]
    return (pictures - jnp.asarray(wanted.mean, pictures.dtype)) / jnp.asarray(wanted.std, pictures.dtype)


def resize(
    pictures: Float[Array, "batch h w 3"], size: tuple[int, int], interpolation: str
) -> Float[Array, "batch h2 w2 3"]:
    """Pictures in [0, 1] to size (h2, w2), equal to Pillow's Image.resize of the 8-bit picture: in whole numbers, two
    passes, each rounded to 8 bits, the one first that leaves less in between (as Pillow 13 does; earlier ones always went
    across first, which differs where the sides' scales do). Raises ValueError for an unknown interpolation.
    """
    x = jnp.round(pictures * 255).astype(jnp.int32)
    height, width = x.shape[1:3]
    passes = [(2, size[1]), (1, size[0])]
    if size[0] * width < height * size[1]:
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
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else size
    if config.get("crop_pct") is not None:
        # ConvNeXt's rule: smaller pictures than 384 are cut from somewhat larger ones, others squeezed.
        final = _square("size", size)
        resized = int(final / config["crop_pct"]) if final < 384 else None
    elif config.get("do_center_crop") and shortest is not None:
        resized, final = shortest, _square("crop_size", crop if crop is not None else size)
    else:
        resized, final = None, _square("size", size)
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
    )


def read_timm_preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    """What the 'pretrained_cfg' of a timm config.json asks for. Raises ValueError naming a field that cannot be expressed."""
    size = config["input_size"][-1]
    mode = config.get("crop_mode", "center")
    if mode not in ("center", "squash") or config["input_size"][-2] != size:
        raise ValueError(
            f"config.json: pretrained_cfg wants crop_mode {mode!r} of {config['input_size']}; known are 'center' and "
            "'squash' to a square"
        )
    return Preprocessing(
        size=size,
        resize=int(size / config.get("crop_pct", 0.875)) if mode == "center" else None,
        interpolation=config.get("interpolation", "bilinear"),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _square(field: str, size: Any) -> int:
    """224, {'height': 224, 'width': 224} or {'shortest_edge': 224} as 224."""
    if isinstance(size, Mapping):
        sides = {int(size[key]) for key in ("height", "width", "shortest_edge") if key in size}
        if len(sides) != 1:
            raise ValueError(f"preprocessor_config.json: {field} is {dict(size)}; only squares are known")
        return sides.pop()
    return int(size)
