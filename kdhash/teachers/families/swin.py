"""Published Swin Transformers: Microsoft's own files and Hugging Face folders, timm's, torchvision's."""

import math
from collections.abc import Mapping
from typing import Any

from kdhash.models.swin import Swin
from kdhash.teachers.convert import NameMap
from kdhash.teachers.families.family import (
    Dialect,
    Family,
    Variant,
    conv_names,
    dense_names,
    layer_norm_names,
)
from kdhash.teachers.preprocessing import IMAGENET

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "small": {"depths": (2, 2, 18, 2)},
    "base": {"depths": (2, 2, 18, 2), "width": 128, "heads": (4, 8, 16, 32)},
    "large": {"depths": (2, 2, 18, 2), "width": 192, "heads": (6, 12, 24, 48)},
}
# The shorter side before the cut to 224 pixels.
TORCHVISION_SIDES = {"tiny": 232, "small": 246, "base": 238}
# Computed from the window alone, here too.
BUFFERS = ("relative_position_index", "attn_mask")


def timm_names(head: str = "head.fc", merged_in: int = 0, **sizes: Any) -> NameMap:
    """timm's SwinTransformer, where stage i begins with the merging."""
    net = Swin(**sizes)
    names: dict[str, Any] = {
        **conv_names("patches/projection", "patch_embed.proj"),
        **layer_norm_names("patches_norm", "patch_embed.norm"),
        **layer_norm_names("norm", "norm"),
        **dense_names("classifier", head),
    }
    for i, depth in enumerate(net.depths):
        if i:
            names |= _merging(i, f"layers.{i - merged_in}.downsample")
        for j in range(depth):
            names |= _block(f"stage{i}_block{j}", f"layers.{i}.blocks.{j}", "mlp.fc1", "mlp.fc2")
    return names


def microsoft_names(**sizes: Any) -> NameMap:
    """Of github.com/microsoft/Swin-Transformer, and timm's older files: stage i - 1 ends with the merging."""
    return timm_names(head="head", merged_in=1, **sizes)


def torchvision_names(**sizes: Any) -> NameMap:
    """torchvision's SwinTransformer."""
    net = Swin(**sizes)
    names: dict[str, Any] = {
        **conv_names("patches/projection", "features.0.0"),
        **layer_norm_names("patches_norm", "features.0.2"),
        **layer_norm_names("norm", "norm"),
        **dense_names("classifier", "head"),
    }
    for i, depth in enumerate(net.depths):
        if i:
            names |= _merging(i, f"features.{2 * i}")
        for j in range(depth):
            names |= _block(f"stage{i}_block{j}", f"features.{2 * i + 1}.{j}", "mlp.0", "mlp.3")
    return names


def huggingface_names(**sizes: Any) -> NameMap:
    """transformers' SwinForImageClassification, as it is saved."""
    net = Swin(**sizes)
    names: dict[str, Any] = {
        **conv_names("patches/projection", "embeddings.patch_embeddings.projection"),
        **layer_norm_names("patches_norm", "embeddings.norm"),
        **layer_norm_names("norm", "layernorm"),
        **dense_names("classifier", "classifier"),
    }
    for i, depth in enumerate(net.depths):
        if i:
            names |= _merging(i, f"encoder.layers.{i - 1}.downsample")
        for j in range(depth):
            target, source = f"stage{i}_block{j}", f"encoder.layers.{i}.blocks.{j}"
            attention = f"{source}.attention.self"
            parts = tuple(f"{attention}.{part}" for part in ("query", "key", "value"))
            names |= {
                **layer_norm_names(f"{target}_norm1", f"{source}.layernorm_before"),
                **dense_names(f"{target}_attention/qkv", parts),
                **dense_names(f"{target}_attention/out", f"{source}.attention.output.dense"),
                f"params/{target}_attention/biases": (f"{attention}.relative_position_bias_table", "keep"),
                **layer_norm_names(f"{target}_norm2", f"{source}.layernorm_after"),
                **dense_names(f"{target}_mlp/fc1", f"{source}.intermediate.dense"),
                **dense_names(f"{target}_mlp/fc2", f"{source}.output.dense"),
            }
    return names


def _block(target: str, source: str, first: str, second: str) -> dict[str, Any]:
    return {
        **layer_norm_names(f"{target}_norm1", f"{source}.norm1"),
        **dense_names(f"{target}_attention/qkv", f"{source}.attn.qkv"),
        **dense_names(f"{target}_attention/out", f"{source}.attn.proj"),
        f"params/{target}_attention/biases": (f"{source}.attn.relative_position_bias_table", "keep"),
        **layer_norm_names(f"{target}_norm2", f"{source}.norm2"),
        **dense_names(f"{target}_mlp/fc1", f"{source}.{first}"),
        **dense_names(f"{target}_mlp/fc2", f"{source}.{second}"),
    }


def _merging(i: int, source: str) -> dict[str, Any]:
    return {
        **layer_norm_names(f"merge{i}_norm", f"{source}.norm"),
        f"params/merge{i}/kernel": (f"{source}.reduction.weight", "dense"),
    }


def sizes_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a config.json. Raises ValueError for what this network cannot express."""
    known_fields = {
        "hidden_act": "gelu",
        "patch_size": 4,
        "num_channels": 3,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "use_absolute_embeddings": False,
        "layer_norm_eps": 1e-5,
    }
    for field, known in known_fields.items():
        if config.get(field, known) != known:
            raise ValueError(f"config.json: {field} is {config[field]!r}; only {known!r} is known")
    defaults = Swin()
    return {
        "depths": tuple(config.get("depths") or defaults.depths),
        "width": config.get("embed_dim", defaults.width),
        "heads": tuple(config.get("num_heads") or defaults.heads),
        "window": config.get("window_size", defaults.window),
    }


def _microsoft(size: str, window: int, pixels: int, source: str) -> Variant:
    shorter = math.floor(pixels / (0.9 if pixels == 224 else 1.0))
    wanted = IMAGENET._replace(size=pixels, resize=shorter, interpolation="bicubic")
    if source == "timm":
        return Variant(SIZES[size] | {"window": window, "shift_first": True}, wanted, ("timm", "microsoft"))
    return Variant(
        SIZES[size] | {"window": window}, wanted._replace(size=pixels, resize=None), ("huggingface",)
    )


PUBLISHED = (("tiny", 7, 224), ("small", 7, 224)) + tuple(
    (size, window, pixels) for size in ("base", "large") for window, pixels in ((7, 224), (12, 384))
)
FAMILY = Family(
    arch="swin",
    reference="Liu et al. 2021, arXiv 2103.14030",
    variants={
        **{
            f"swin_{size}_patch4_window{window}_{pixels}": _microsoft(size, window, pixels, "timm")
            for size, window, pixels in PUBLISHED
        },
        **{
            f"microsoft/swin-{size}-patch4-window{window}-{pixels}": _microsoft(
                size, window, pixels, "huggingface"
            )
            for size, window, pixels in PUBLISHED
        },
        **{
            f"swin_{size[0]}": Variant(
                SIZES[size], IMAGENET._replace(resize=side, interpolation="bicubic"), ("torchvision",)
            )
            for size, side in TORCHVISION_SIDES.items()
        },
    },
    dialects={
        "timm": Dialect(timm_names, ignore=BUFFERS),
        "microsoft": Dialect(microsoft_names, ignore=BUFFERS),
        "torchvision": Dialect(torchvision_names, ignore=BUFFERS),
        "huggingface": Dialect(huggingface_names, prefix="swin.", ignore=BUFFERS),
    },
    model_types=("swin",),
    sizes_from_config=sizes_from_config,
)
