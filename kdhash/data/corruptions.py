"""Pictures as they come from a bad camera or a small file, to see how codes stand it.

Pure functions of uint8 pictures [n, h, w, 3], on the host. What is drawn at random is drawn from a seed and the picture's row
number alone, so that a picture is spoilt alike in whatever batch it comes.
"""

import io
from collections.abc import Callable

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image
from scipy import ndimage

Pictures = UInt8[np.ndarray, "n h w 3"]
Rows = Int[np.ndarray, " n"]


def jpeg(pictures: Pictures, rows: Rows, seed: int, quality: int) -> Pictures:
    """Written as JPEG at `quality` (1 to 95, Pillow's scale, colour at half resolution) and read again."""

    def one(picture: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="JPEG", quality=quality, subsampling="4:2:0")
        with Image.open(buffer) as found:
            return np.asarray(found)

    return np.stack([one(picture) for picture in pictures])


def gaussian_noise(pictures: Pictures, rows: Rows, seed: int, sigma: float) -> Pictures:
    """Independent noise of deviation `sigma` on every value, in units of the range of values."""

    def one(picture: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        return picture + 255 * sigma * draw.standard_normal(picture.shape, dtype=np.float32)

    return _each(one, pictures, rows, seed)


def blur(pictures: Pictures, rows: Rows, seed: int, sigma: float) -> Pictures:
    """A Gaussian of deviation `sigma` pixels, each channel for itself; the border is repeated outwards."""
    blurred = ndimage.gaussian_filter(pictures.astype(np.float32), (0, sigma, sigma, 0), mode="nearest")
    return _rounded(blurred)


def occlusion(pictures: Pictures, rows: Rows, seed: int, side: int) -> Pictures:
    """A grey square of `side` pixels, wholly inside the picture, at a place drawn uniformly. Raises ValueError for a square that
    is larger than the picture."""
    height, width = pictures.shape[1:3]
    if side > min(height, width):
        raise ValueError(f"a square of {side} pixels does not fit into pictures of {height}x{width}")

    def one(picture: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        top, left = draw.integers(0, (height - side + 1, width - side + 1))
        hidden = picture.astype(np.float32)
        hidden[top : top + side, left : left + side] = 127.5
        return hidden

    return _each(one, pictures, rows, seed)


# Each with its strengths, from mild to harsh, and what these are.
CORRUPTIONS: dict[str, tuple[Callable[..., np.ndarray], tuple[float, ...], str]] = {
    "jpeg": (jpeg, (75, 50, 25), "quality"),
    "noise": (gaussian_noise, (0.04, 0.08, 0.16), "deviation, of the range of values"),
    "blur": (blur, (0.5, 1.0, 2.0), "deviation, in pixels"),
    "occlusion": (occlusion, (4, 8, 12), "side of the square, in pixels"),
}


def _each(
    one: Callable[[np.ndarray, np.random.Generator], np.ndarray], pictures: Pictures, rows: Rows, seed: int
) -> Pictures:
    made = [
        one(picture, np.random.default_rng((seed, int(row))))
        for picture, row in zip(pictures, rows, strict=True)
    ]
    return _rounded(np.stack(made))


def _rounded(values: np.ndarray) -> Pictures:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
