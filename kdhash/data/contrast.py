"""The random views of contrastive learning: crop, flip, colour jitter with hue, grayscale and blur of one picture.

Pure functions of one float picture [h, w, 3] in [0, 1], to be vmapped over keys and pictures; as in
`kdhash.data.augment`, what happens to a picture depends on its key alone.
"""

from collections.abc import Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from kdhash.data.augment import Picture, _grey, color_jitter, random_flip, resized_crop

JITTER = MappingProxyType({"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1})
BLUR_KERNEL = 3

RGBPicture = Float[Array, "h w 3"]


def hue_shift(image: RGBPicture, turn: float | Float[Array, ""]) -> RGBPicture:
    """Every pixel's hue turned by `turn` of the colour circle (1 is a full turn); saturation and value stay.

    As torchvision's adjust_hue: to HSV (Smith 1978) and back, on floats. Grey pixels have no hue and stay.
    """
    high, span = image.max(-1), image.max(-1) - image.min(-1)
    red, green, blue = jnp.moveaxis(image, -1, 0)
    divisor = jnp.where(span > 0, span, 1)
    # In sixths of the circle: 0 is red, 2 green, 4 blue. Channels are compared with each other, not with `high`: a compiler may
    # compute the picture twice and round it differently, and then no channel is its own maximum.
    hue = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / divisor,
        jnp.where(green >= blue, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    # sixths from the hue opposite to each channel's: `high` up to there and from 4 on, lowest at 1 to 3
    around = jnp.mod(hue[..., None] + 6 * turn + jnp.array([5, 3, 1], image.dtype), 6)
    lowered = jnp.clip(jnp.minimum(around, 4 - around), 0, 1)
    return high[..., None] - span[..., None] * lowered  # saturation * value is the span


def grayscale(image: RGBPicture) -> RGBPicture:
    """Each pixel's grey (luma of ITU-R 601-2) in all three channels, as torchvision's RandomGrayscale."""
    return jnp.broadcast_to(_grey(image), image.shape)


def gaussian_blur(image: Picture, sigma: float | Float[Array, ""], kernel: int) -> Picture:
    """Gaussian blur by `kernel` x `kernel` weights that sum to 1; the border is mirrored without its edge pixel.

    As torchvision's gaussian_blur: the Gaussian is sampled at whole pixels and cut off at the kernel's edge, so
    for sigma much above kernel / 4 the blur is weaker than sigma says, and at most a box of `kernel` pixels.

    Args:
      sigma: standard deviation in pixels; may be traced. At 0 (and below .02 in effect) nothing changes.
      kernel: side of the window in pixels.

    Raises:
      ValueError: `kernel` is not a positive odd number, or a side of the picture is not above kernel // 2.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel is {kernel}; it must be a positive odd number")
    reach = kernel // 2
    if min(image.shape[:2]) <= reach:
        raise ValueError(f"a picture of {image.shape[0]} x {image.shape[1]} is too small for kernel {kernel}")
    places = jnp.arange(-reach, reach + 1, dtype=image.dtype)
    weights = jnp.exp(-0.5 * (places / jnp.maximum(sigma, 1e-3)) ** 2)  # the bound keeps 0 / 0 out
    weights = (weights / weights.sum()).astype(image.dtype)
    for axis in (0, 1):
        margins = [(reach, reach) if side == axis else (0, 0) for side in range(3)]
        padded = jnp.pad(image, margins, mode="reflect")
        # shifted copies rather than a convolution: under vmap every picture has weights of its own
        shifted = [
            jax.lax.slice_in_dim(padded, start, start + image.shape[axis], axis=axis)
            for start in range(kernel)
        ]
        image = sum((weights[start] * copy for start, copy in enumerate(shifted)), jnp.zeros_like(image))
    return image


def random_apply(
    key: Key[Array, ""], p: float | Float[Array, ""], image: Picture, changed: Picture
) -> Picture:
    """`changed` with probability `p`, otherwise `image`."""
    happens = jax.random.bernoulli(key, jnp.float32(p))  # whole numbers too, and the same draw in float64
    return jnp.where(happens, changed, image)


def contrast_view(
    key: Key[Array, ""],
    picture: RGBPicture,
    *,
    scale: tuple[float, float] = (0.5, 1.0),
    jitter: Mapping[str, float] = JITTER,
    jitter_p: float = 0.7,
    gray_p: float = 0.2,
    blur_p: float = 0.5,
    blur_sigma: tuple[float, float] = (0.1, 2.0),
    blur_reference: int | None = 224,
) -> RGBPicture:
    """One random view: resized crop, flip, colour jitter, grayscale, blur, in this order, at the picture's size.

    The defaults are the training views of CIBHash (Qiu et al., IJCAI 2021) and BRCD (He et al., WWW 2024,
    arXiv 2403.06071). Two views of a picture are two calls with two keys. Normalisation is left to the caller.

    Those programs enlarge pictures to 224 pixels and blur there, with a kernel of 3. Here a picture keeps its
    height h, so sigma is scaled to sigma * h / `blur_reference` pixels: a picture is blurred as much as its
    enlargement would be, up to the cut-off at 3 pixels on either scale. For a small picture that is next to
    nothing: at 32 pixels sigma is at most .29, and a neighbour weighs about .002 at most.

    Args:
      key: decides everything; no operation's draws depend on the other operations' settings.
      picture: in [0, 1]; so is the result.
      scale: share of the picture's area that is cut out (`resized_crop`).
      jitter: half-widths 'brightness', 'contrast', 'saturation' (`color_jitter`) and 'hue', whose turn is uniform in
        +- its share of the colour circle; numbers, not traced; one left out is 0. The hue always comes last,
        where torchvision draws the order of the four.
      jitter_p, gray_p, blur_p: probabilities that jitter (all of it), grayscale and blur happen.
      blur_sigma: sigma is uniform between these, in pixels of a picture of height `blur_reference`.
      blur_reference: None means that `blur_sigma` is in the picture's own pixels.

    Raises:
      ValueError: hue outside 0..0.5.  TypeError: another name in `jitter`.
    """
    mixes = dict(jitter)
    hue = mixes.pop("hue", 0.0)
    if not 0 <= hue <= 0.5:
        raise ValueError(f"jitter's hue is {hue}; it must be in 0..0.5 (half the colour circle either way)")
    crop_key, flip_key, color_key, hue_key, jitter_key, gray_key, sigma_key, blur_key = jax.random.split(
        key, 8
    )

    view = resized_crop(crop_key, picture, scale)
    view, _ = random_flip(flip_key, view)
    jittered = color_jitter(color_key, view, **mixes)
    if hue:
        jittered = hue_shift(jittered, jax.random.uniform(hue_key, (), view.dtype, -hue, hue))
    view = random_apply(jitter_key, jitter_p, view, jittered)
    view = random_apply(gray_key, gray_p, view, grayscale(view))
    sigma = jax.random.uniform(sigma_key, (), view.dtype, *blur_sigma)
    if blur_reference is not None:
        sigma = sigma * (picture.shape[0] / blur_reference)
    view = random_apply(blur_key, blur_p, view, gaussian_blur(view, sigma, BLUR_KERNEL))
    return jnp.clip(view, 0, 1)  # interpolation rounds to just above 1
