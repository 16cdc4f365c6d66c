"""Published DINOv2, with registers too: Facebook's own files, timm's, Hugging Face's."""

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
from kdhash.teachers.families.vit import (
    UNUSED,
    encoder_sizes,
    huggingface_attention,
    shape,
    timm_names,
)
from kdhash.teachers.preprocessing import IMAGENET

# The giant's gated MLP keeps two thirds of four times its width.
GIANT = {
    "width": 1536,
    "heads": 24,
    "depth": 40,
    "hidden": 4096,
    "activation": "swiglu",
}
REGISTERED = "dinov2_with_registers"  # transformers' model_type
PIXELS = 518  # of the pictures that the positions were learned on last


def facebook_names(**sizes: Any) -> NameMap:
    """Of github.com/facebookresearch/dinov2: as timm's, but for the registers, and the giant's MLP."""
    names = dict(timm_names(register_tokens="register_tokens", **sizes))
    net = VisionTransformer(**sizes)
    if net.activation == "swiglu":
        for i in range(net.depth):
            names |= dense_names(f"block{i}/mlp/fc1", f"blocks.{i}.mlp.w12")
            names |= dense_names(f"block{i}/mlp/fc2", f"blocks.{i}.mlp.w3")
    return names


def huggingface_names(**sizes: Any) -> NameMap:
    """transformers' Dinov2Model and Dinov2ForImageClassification, with registers or without."""
    net = VisionTransformer(**sizes)
    names: dict[str, Any] = {
        "params/class_token": ("embeddings.cls_token", "rows"),
        "params/positions": ("embeddings.position_embeddings", "rows"),
        **conv_names("patches/projection", "embeddings.patch_embeddings.projection"),
        **layer_norm_names("norm", "layernorm"),
        **dense_names("classifier", "classifier"),
    }
    if net.registers:
        names["params/registers"] = ("embeddings.register_tokens", "rows")
    first, second = ("weights_in", "weights_out") if net.activation == "swiglu" else ("fc1", "fc2")
    for i in range(net.depth):
        target, source = f"block{i}", f"encoder.layer.{i}"
        names |= {
            **layer_norm_names(f"{target}/norm1", f"{source}.norm1"),
            **huggingface_attention(f"{target}/attention", f"{source}.attention"),
            f"params/{target}/scale1": (f"{source}.layer_scale1.lambda1", "keep"),
            **layer_norm_names(f"{target}/norm2", f"{source}.norm2"),
            **dense_names(f"{target}/mlp/fc1", f"{source}.mlp.{first}"),
            **dense_names(f"{target}/mlp/fc2", f"{source}.mlp.{second}"),
            f"params/{target}/scale2": (f"{source}.layer_scale2.lambda1", "keep"),
        }
    return names


def sizes_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a config.json. Raises ValueError for what this network cannot express."""
    if not config.get("use_mask_token", True):
        raise ValueError("config.json: use_mask_token is false; only true is known")
    registered = config["model_type"] == REGISTERED
    # transformers' two classes differ in the patches that a config.json without their size means, and in antialiasing.
    sizes = encoder_sizes(config, patch=16 if registered else 14, image_size=224, epsilon=1e-6)
    hidden = int(sizes["width"] * config.get("mlp_ratio", 4))
    if config.get("use_swiglu_ffn"):
        sizes["activation"] = "swiglu"
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
    classifies = any("Classification" in name for name in config.get("architectures") or ())
    return sizes | {
        "hidden": hidden,
        "layer_scale": True,
        "registers": config.get("num_register_tokens", 4) if registered else 0,
        "antialias": registered,
        "pool": "token_mean" if classifies else "token",
    }


def _variants(registers: int) -> dict[str, Variant]:
    whole = IMAGENET._replace(size=PIXELS, resize=PIXELS, interpolation="bicubic")
    cut = IMAGENET._replace(interpolation="bicubic")
    mark, middle = ("_reg4", "-with-registers") if registers else ("", "")
    variants = {}
    for size in ("small", "base", "large", "giant"):
        common = {"patch": 14, "image_size": PIXELS, "layer_scale": True, "registers": registers}
        sizes = {**GIANT, **common} if size == "giant" else shape(size, **common)
        # timm leaves the class token's position in the token itself where there are registers.
        timm = {**sizes, "antialias": True, "token_position": not registers}
        variants[f"vit_{size}_patch14{mark}_dinov2"] = Variant(timm, whole, ("timm",))
        sizes["antialias"] = bool(registers)
        facebook = sizes if registers else {**sizes, "position_offset": 0.1}
        variants[f"dinov2_vit{size[0]}14{mark}"] = Variant(facebook, cut, ("facebookresearch",))
        variants[f"facebook/dinov2{middle}-{size}"] = Variant(
            sizes, cut._replace(cut="floor"), ("huggingface",)
        )
    return variants


def _family(title: str, reference: str, registers: int, model_type: str) -> Family:
    return Family(
        arch="vit",
        title=title,
        reference=reference,
        variants=_variants(registers),
        dialects={
            "timm": Dialect(timm_names),
            "facebookresearch": Dialect(facebook_names, ignore=UNUSED),
            "huggingface": Dialect(huggingface_names, prefix=f"{model_type}.", ignore=UNUSED),
        },
        model_types=(model_type,),
        sizes_from_config=sizes_from_config,
    )


PLAIN = _family("dinov2", "Oquab et al. 2023, arXiv 2304.07193", 0, "dinov2")
WITH_REGISTERS = _family("dinov2_registers", "Darcet et al. 2024, arXiv 2309.16588", 4, REGISTERED)
