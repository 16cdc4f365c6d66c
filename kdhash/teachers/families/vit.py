"""Published ViT and DeiT: timm's (which began as Google's and Facebook's), Hugging Face's, torchvision's."""

import math
from collections.abc import Mapping
from typing import Any

from kdhash.models.vit import VisionTransformer
from kdhash.teachers.convert import NameMap
from kdhash.teachers.families.family import (
    Dialect,
    Family,
    Variant,
    conv_names,
    dense_names,
    layer_norm_names,
)
from kdhash.teachers.preprocessing import IMAGENET, Preprocessing

# name: width, heads, depth; the MLPs are four times as wide
SHAPES = {"tiny": (192, 3, 12), "small": (384, 6, 12), "base": (768, 12, 12), "large": (1024, 16, 24)}
# transformers' names of activations
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}


def timm_names(register_tokens: str = "reg_token", **sizes: Any) -> NameMap:
    """timm's VisionTransformer: ViT, DeiT, DINOv2; `register_tokens` is what the source calls them."""
    net = VisionTransformer(**sizes)
    names: dict[str, Any] = {
        "params/class_token": ("cls_token", "rows"),
        "params/positions": ("pos_embed", "rows"),
        **conv_names("patches/projection", "patch_embed.proj"),
        **layer_norm_names("norm", "norm"),
    }
    if net.registers:
        names["params/registers"] = (register_tokens, "rows")
    if net.distilled:
        names["params/distillation_token"] = ("dist_token", "rows")
    if net.pool == "two_tokens":
        names |= dense_names("classifier/token", "head") | dense_names("classifier/distillation", "head_dist")
    else:
        names |= dense_names("classifier", "head")
    for i in range(net.depth):
        target, source = f"block{i}", f"blocks.{i}"
        names |= {
            **layer_norm_names(f"{target}/norm1", f"{source}.norm1"),
            **dense_names(f"{target}/attention/qkv", f"{source}.attn.qkv"),
            **dense_names(f"{target}/attention/out", f"{source}.attn.proj"),
            **layer_norm_names(f"{target}/norm2", f"{source}.norm2"),
            **dense_names(f"{target}/mlp/fc1", f"{source}.mlp.fc1"),
            **dense_names(f"{target}/mlp/fc2", f"{source}.mlp.fc2"),
        }
        if net.layer_scale:
            names[f"params/{target}/scale1"] = (f"{source}.ls1.gamma", "keep")
            names[f"params/{target}/scale2"] = (f"{source}.ls2.gamma", "keep")
    return names


def huggingface_names(**sizes: Any) -> NameMap:
    """transformers' ViTForImageClassification and both forms of DeiT, as they are saved."""
    net = VisionTransformer(**sizes)
    names: dict[str, Any] = {
        "params/class_token": ("embeddings.cls_token", "rows"),
        "params/positions": ("embeddings.position_embeddings", "rows"),
        **conv_names("patches/projection", "embeddings.patch_embeddings.projection"),
        **layer_norm_names("norm", "layernorm"),
    }
    if net.distilled:
        names["params/distillation_token"] = ("embeddings.distillation_token", "rows")
    if net.pool == "two_tokens":
        names |= dense_names("classifier/token", "cls_classifier")
        names |= dense_names("classifier/distillation", "distillation_classifier")
    else:
        names |= dense_names("classifier", "classifier")
    for i in range(net.depth):
        target, source = f"block{i}", f"encoder.layer.{i}"
        names |= {
            **layer_norm_names(f"{target}/norm1", f"{source}.layernorm_before"),
            **huggingface_attention(f"{target}/attention", f"{source}.attention"),
            **layer_norm_names(f"{target}/norm2", f"{source}.layernorm_after"),
            **dense_names(f"{target}/mlp/fc1", f"{source}.intermediate.dense"),
            **dense_names(f"{target}/mlp/fc2", f"{source}.output.dense"),
        }
    return names


def huggingface_attention(target: str, source: str) -> dict[str, Any]:
    """Attention as transformers saved it in its first years: query, key and value apart."""
    parts = tuple(f"{source}.attention.{part}" for part in ("query", "key", "value"))
    return dense_names(f"{target}/qkv", parts) | dense_names(f"{target}/out", f"{source}.output.dense")


def torchvision_names(**sizes: Any) -> NameMap:
    """torchvision's VisionTransformer."""
    net = VisionTransformer(**sizes)
    names: dict[str, Any] = {
        "params/class_token": ("class_token", "rows"),
        "params/positions": ("encoder.pos_embedding", "rows"),
        **conv_names("patches/projection", "conv_proj"),
        **layer_norm_names("norm", "encoder.ln"),
        **dense_names("classifier", "heads.head"),
    }
    for i in range(net.depth):
        target, source = f"block{i}", f"encoder.layers.encoder_layer_{i}"
        names |= {
            **layer_norm_names(f"{target}/norm1", f"{source}.ln_1"),
            **dense_names(f"{target}/attention/qkv", f"{source}.self_attention.in_proj", joint="_"),
            **dense_names(f"{target}/attention/out", f"{source}.self_attention.out_proj"),
            **layer_norm_names(f"{target}/norm2", f"{source}.ln_2"),
            **dense_names(f"{target}/mlp/fc1", f"{source}.mlp.0"),
            **dense_names(f"{target}/mlp/fc2", f"{source}.mlp.3"),
        }
    return names


def encoder_sizes(
    config: Mapping[str, Any], *, patch: int, image_size: int, epsilon: float
) -> dict[str, Any]:
    """The sizes that all of transformers' vision encoders describe alike; `patch`, `image_size` and `epsilon` are what a
    config.json that leaves them out means. Raises ValueError naming the field that this network cannot express."""
    for field, known in (("num_channels", 3), ("qkv_bias", True)):
        if config.get(field, known) != known:
            raise ValueError(f"config.json: {field} is {config[field]!r}; only {known!r} is known")
    activation = config.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise ValueError(f"config.json: hidden_act is {activation!r}; known are {', '.join(ACTIVATIONS)}")
    return {
        "width": config.get("hidden_size", 768),
        "depth": config.get("num_hidden_layers", 12),
        "heads": config.get("num_attention_heads", 12),
        "hidden": config.get("intermediate_size", 3072),
        "patch": config.get("patch_size", patch),
        "image_size": config.get("image_size", image_size),
        "activation": ACTIVATIONS[activation],
        "epsilon": config.get("layer_norm_eps", epsilon),
    }


def sizes_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a config.json of ViT or DeiT. Raises ValueError for what this network cannot express."""
    sizes = encoder_sizes(config, patch=16, image_size=224, epsilon=1e-12)
    if config["model_type"] == "deit":
        both = any("WithTeacher" in name for name in config.get("architectures") or ())
        sizes |= {"distilled": True, "pool": "two_tokens" if both else "token"}
    return sizes


def shape(size: str, **changes: Any) -> dict[str, Any]:
    """The fields of a published size."""
    width, heads, depth = SHAPES[size]
    return {"width": width, "heads": heads, "depth": depth, "hidden": 4 * width} | changes


def _timm(size: str, patch: int, pixels: int, preprocessing: Preprocessing, **changes: Any) -> Variant:
    """timm cuts the middle 90 % of pictures of 224 pixels and all of those of 384."""
    shorter = math.floor(pixels / (0.9 if pixels == 224 else 1.0))
    wanted = preprocessing._replace(size=pixels, resize=shorter, interpolation="bicubic", cut="round")
    sizes = shape(size, patch=patch, image_size=pixels, antialias=True, **changes)
    return Variant(sizes, wanted, ("timm",))


def _google(size: str, patch: int, pixels: int) -> Variant:
    sizes = shape(size, patch=patch, image_size=pixels, epsilon=1e-12)
    return Variant(sizes, Preprocessing(size=pixels), ("huggingface",))


# Tokens that only the pretraining used, and a map that no classifier reads.
UNUSED = ("mask_token", "pooler.dense.weight", "pooler.dense.bias")
TWO = {"distilled": True, "pool": "two_tokens"}
VIT = Family(
    arch="vit",
    reference="Dosovitskiy et al. 2021, arXiv 2010.11929",
    variants={
        **{
            f"vit_{size}_patch{patch}_{pixels}": _timm(size, patch, pixels, Preprocessing())
            for size, patch in (
                ("tiny", 16),
                ("small", 16),
                ("small", 32),
                ("base", 8),
                ("base", 16),
                ("base", 32),
                ("large", 16),
            )
            for pixels in (224, 384)
            if (patch, pixels) != (8, 384)
        },
        **{
            f"google/vit-{size}-patch{patch}-{pixels}": _google(size, patch, pixels)
            for size, patch, pixels in (
                ("base", 16, 224),
                ("base", 16, 384),
                ("base", 32, 384),
                ("large", 16, 224),
                ("large", 16, 384),
                ("large", 32, 384),
            )
        },
        **{
            f"vit_{size[0]}_{patch}": Variant(shape(size, patch=patch), IMAGENET, ("torchvision",))
            for size in ("base", "large")
            for patch in (16, 32)
        },
    },
    dialects={
        "timm": Dialect(timm_names),
        "huggingface": Dialect(huggingface_names, prefix="vit.", ignore=UNUSED),
        "torchvision": Dialect(torchvision_names),
    },
    model_types=("vit",),
    sizes_from_config=sizes_from_config,
)
DEIT = Family(
    arch="vit",
    title="deit",
    reference="Touvron et al. 2021, arXiv 2012.12877",
    variants={
        **{
            f"deit_{size}_patch16_{pixels}": _timm(size, 16, pixels, IMAGENET)
            for size, pixels in (("tiny", 224), ("small", 224), ("base", 224), ("base", 384))
        },
        **{
            f"deit_{size}_distilled_patch16_{pixels}": _timm(size, 16, pixels, IMAGENET, **TWO)
            for size, pixels in (("tiny", 224), ("small", 224), ("base", 224), ("base", 384))
        },
        **{
            f"facebook/deit-{size}-distilled-patch16-224": Variant(
                shape(size, epsilon=1e-12, **TWO),
                IMAGENET._replace(interpolation="bicubic", squash=True, cut="floor"),
                ("huggingface",),
            )
            for size in ("tiny", "small", "base")
        },
    },
    dialects={
        "timm": Dialect(timm_names),
        "huggingface": Dialect(huggingface_names, prefix="deit.", ignore=UNUSED),
    },
    model_types=("deit",),
    sizes_from_config=sizes_from_config,
)
