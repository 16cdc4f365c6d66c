"""Named views of pictures: what a teacher's features are cached of, and what a student may be shown again, pixel for pixel."""

import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from kdhash.data.augment import color_jitter, random_flip, resized_crop
from kdhash.data.contrast import contrast_view

PICTURE_VIEWS = ("original", "flip")  # that a picture has by itself; all others are drawn by its row
# What numbered views are made with; part of the cache's identity.
RECIPES: dict[str, dict[str, Any]] = {
    "augment": {
        "scale": [0.6, 1.0],
        "jitter": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3},
    },
    "contrast": {
        "scale": [0.5, 1.0],
        "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
        "jitter_p": 0.7,
        "gray_p": 0.2,
        "blur_p": 0.5,
        "blur_sigma": [0.1, 2.0],
    },
}


def recipe_of(view: str) -> dict[str, Any] | None:
    """The recipe of a numbered view ('augment3'), None for 'original' and 'flip'. Raises ValueError for another name."""
    numbered = re.fullmatch(rf"({'|'.join(RECIPES)})\d+", view)
    if numbered:
        return RECIPES[numbered[1]]
    if view in PICTURE_VIEWS:
        return None
    raise ValueError(
        f"no view is called {view!r}; choose from {', '.join(PICTURE_VIEWS)}, augment1, augment2, ..., contrast1, contrast2, ..."
    )


def view_pictures(
    view: str, rows: Int[Array, " batch"], images: UInt8[Array, "batch h w 3"]
) -> Float[Array, "batch h w 3"]:
    """Float pictures in [0, 1] of one named view from uint8 pictures.

    'original'; 'flip' (mirrored); 'augment1', 'augment2', ... a resized crop (scale .6 to 1), flip and colour jitter;
    'contrast1', 'contrast2', ... the stronger views of contrastive learning (`data.contrast_view`). Both are drawn from the
    row number. Networks that know their training pictures by heart (99.9 % right) err on such views as they err on new
    pictures: the CIFAR ResNets are right on 88 to 90 % of 'augment' views. Raises ValueError for another name.
    """
    if recipe_of(view) is None:
        pictures = images.astype(jnp.float32) / 255
        return pictures[:, :, ::-1] if view == "flip" else pictures
    kind = view.rstrip("0123456789")
    numbers = jnp.full(len(images), int(view.removeprefix(kind)))
    return numbered_views(kind, numbers, rows, images)


def numbered_views(
    kind: str, numbers: Int[Array, " batch"], rows: Int[Array, " batch"], images: UInt8[Array, "batch h w 3"]
) -> Float[Array, "batch h w 3"]:
    """View `numbers[n]` of the recipe `kind` of each picture, the same as `view_pictures` gives one number at a time."""

    def one(number, row, image):
        key = jax.random.fold_in(jax.random.key(number), row)
        return _VIEWS[kind](key, image.astype(jnp.float32) / 255)

    return jax.vmap(one)(numbers, rows, images)


def _augment(key, picture):
    recipe = RECIPES["augment"]
    crop, flip, color = jax.random.split(key, 3)
    picture = resized_crop(crop, picture, scale=tuple(recipe["scale"]))
    picture, _ = random_flip(flip, picture)
    return color_jitter(color, picture, **recipe["jitter"])


def _contrast(key, picture):
    return contrast_view(key, picture, **RECIPES["contrast"])


_VIEWS = {"augment": _augment, "contrast": _contrast}
