"""Augmentation on the device: pure functions of one key and one picture, and a jitted batch of them.

Pictures are float32 [h, w, c] in [0, 1]. Every example has its own key, so what happens to a picture depends
neither on its batch nor on how the batch is spread over devices.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

Picture = Float[Array, "h w c"]

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as in torchvision's rgb_to_grayscale


def example_keys(key: Key[Array, ""], rows: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """One key per example: `fold_in(key, row)`, for `key` = f(seed, step) and the rows or batch positions."""
    return jax.vmap(partial(jax.random.fold_in, key))(rows)


def random_crop(key: Key[Array, ""], image: Picture, pad: int) -> Picture:
    """`pad` pixels of zeros (black) on each side, then a window of the old size at a uniformly drawn place.

    The usual CIFAR augmentation with pad 4 (He et al. 2016, section 4.2).
    """
    padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    top, left = jax.random.randint(key, (2,), 0, 2 * pad + 1)
    return jax.lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), image.shape)


def random_flip(key: Key[Array, ""], image: Picture) -> tuple[Picture, Bool[Array, ""]]:
    """Mirrored left-right with probability 1/2; and whether it was."""
    flipped = jax.random.bernoulli(key)
    return jnp.where(flipped, image[:, ::-1], image), flipped


def cutout(key: Key[Array, ""], image: Picture, size: int, fill: float = 0.5) -> Picture:
    """A `size` x `size` square, centred on a uniformly drawn pixel and cut off at the border, set to `fill`.

    DeVries and Taylor 2017 (arXiv 1708.04552) fill with the data set's mean; mid-grey stands for it here.
    """
    height, width, _ = image.shape
    row_key, column_key = jax.random.split(key)
    top = jax.random.randint(row_key, (), 0, height) - size // 2
    left = jax.random.randint(column_key, (), 0, width) - size // 2
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    inside = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
    return jnp.where(inside[..., None], fill, image)


def color_jitter(
    key: Key[Array, ""],
    image: Float[Array, "h w 3"],
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
) -> Float[Array, "h w 3"]:
    """Brightness, contrast and saturation, by factors uniform in [max(0, 1 - x), 1 + x].

    The result is clipped to [0, 1] after each. Brightness mixes with black, contrast with the mean grey of
    the picture, saturation with each pixel's grey, as in torchvision's ColorJitter, but always in this order
    (torchvision draws the order).
    """

    def mix(image, other, factor):
        return jnp.clip(factor * image + (1 - factor) * other, 0, 1)

    bounds = jnp.array([brightness, contrast, saturation], image.dtype)
    lowest = jnp.maximum(0, 1 - bounds)
    factors = lowest + (1 + bounds - lowest) * jax.random.uniform(key, (3,), image.dtype)
    if brightness:
        image = mix(image, jnp.zeros_like(image), factors[0])
    if contrast:
        image = mix(image, jnp.broadcast_to(_grey(image).mean(), image.shape), factors[1])
    if saturation:
        image = mix(image, jnp.broadcast_to(_grey(image), image.shape), factors[2])
    return image


def add_noise(key: Key[Array, ""], image: Picture, deviation: float) -> Picture:
    """Independent Gaussian noise of standard deviation `deviation` on every value, clipped to [0, 1]."""
    return jnp.clip(image + deviation * jax.random.normal(key, image.shape, image.dtype), 0, 1)


def resized_crop(
    key: Key[Array, ""],
    image: Picture,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Picture:
    """A random window, resized bilinearly to the picture's own size.

    The window has a share of the area uniform in `scale` and a width : height uniform in log over `ratio`
    (Szegedy et al. 2015); sides longer than the picture are cut to it, where torchvision would draw again.
    Windows lie at continuous places; pixels just outside a window, but inside the picture, take part in the
    interpolation at its edge.
    """
    height, width, _ = image.shape
    draws = jax.random.uniform(key, (4,), image.dtype)
    area = scale[0] + (scale[1] - scale[0]) * draws[0]
    stretch = jnp.exp(jnp.log(ratio[0]) + (jnp.log(ratio[1]) - jnp.log(ratio[0])) * draws[1])
    # shares of the picture's sides; `stretch` is in pixels, so the picture's own shape enters
    tall = jnp.minimum(1, jnp.sqrt(area / stretch * (width / height)))
    wide = jnp.minimum(1, jnp.sqrt(area * stretch * (height / width)))
    top, left = (1 - tall) * height * draws[2], (1 - wide) * width * draws[3]
    zoom = 1 / jnp.stack([tall, wide])
    return jax.image.scale_and_translate(
        image, image.shape, (0, 1), zoom, -jnp.stack([top, left]) * zoom, "linear", antialias=False
    )


_cut_square = cutout  # the argument `cutout` of augment_images hides the function


@partial(jax.jit, static_argnames=("pad", "flip", "cutout", "brightness", "contrast", "saturation", "noise"))
def augment_images(
    keys: Key[Array, " batch"],
    images: UInt8[Array, "batch h w c"],
    *,
    pad: int,
    flip: bool,
    cutout: int = 0,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    noise: float = 0.0,
) -> tuple[Float[Array, "batch h w c"], Bool[Array, " batch"]]:
    """Random crop, flip, colour jitter, noise and cutout, in this order; what is 0 or False is left out.

    Args:
      keys: one per example; see `example_keys`. No operation's draws depend on which others are on.
      images: uint8 0..255.
      pad: pixels of black added on each side before a crop of the old size (`random_crop`).
      flip: mirror left-right with probability 1/2.
      cutout: side in pixels of the square that is greyed out.
      brightness, contrast, saturation: half-widths of the factors around 1 (`color_jitter`).
      noise: standard deviation of Gaussian noise, in units of the [0, 1] range.

    Returns:
      float32 pictures in [0, 1], and whether each was mirrored (for cached features of both views).
    """

    def one(key: Key[Array, ""], image: UInt8[Array, "h w c"]) -> tuple[Picture, Bool[Array, ""]]:
        crop_key, flip_key, color_key, noise_key, cutout_key = jax.random.split(key, 5)
        picture = image.astype(jnp.float32) / 255
        flipped = jnp.zeros((), bool)
        if pad:
            picture = random_crop(crop_key, picture, pad)
        if flip:
            picture, flipped = random_flip(flip_key, picture)
        if brightness or contrast or saturation:
            picture = color_jitter(
                color_key, picture, brightness=brightness, contrast=contrast, saturation=saturation
            )
        if noise:
            picture = add_noise(noise_key, picture, noise)
        if cutout:
            picture = _cut_square(cutout_key, picture, cutout)
        return picture, flipped

    return jax.vmap(one)(keys, images)


def normalize(
    images: Float[Array, "*batch h w c"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "*batch h w c"]:
    """(images - mean) / std per channel, for pictures in [0, 1]."""
    if not len(mean) == len(std) == images.shape[-1]:
        raise ValueError(f"mean has {len(mean)} and std {len(std)} values for {images.shape[-1]} channels")
    channels = (1,) * (images.ndim - 1) + (-1,)
    return (images - jnp.array(mean, images.dtype).reshape(channels)) / jnp.array(std, images.dtype).reshape(
        channels
    )


def _grey(image: Float[Array, "h w 3"]) -> Float[Array, "h w 1"]:
    return (image * jnp.array(LUMA, image.dtype).reshape(1, 1, 3)).sum(-1, keepdims=True)
