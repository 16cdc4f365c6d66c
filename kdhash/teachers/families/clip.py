"""Published CLIP and SigLIP: their image towers and CLIP's text tower, each read from a file of its own or of both towers."""

from collections.abc import Mapping
from typing import Any

from kdhash.models.clip_text import ClipText
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
from kdhash.teachers.families.vit import encoder_sizes, shape
from kdhash.teachers.preprocessing import Preprocessing

CLIP_PICTURES = Preprocessing(
    resize=224,
    interpolation="bicubic",
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
# Numbers of positions are no weights: newer transformers writes them no more.
NUMBERS = ("position_ids",)


def _blocks(depth: int) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for i in range(depth):
        target, source = f"block{i}", f"encoder.layers.{i}"
        parts = tuple(f"{source}.self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj"))
        names |= {
            **layer_norm_names(f"{target}/norm1", f"{source}.layer_norm1"),
            **dense_names(f"{target}/attention/qkv", parts),
            **dense_names(f"{target}/attention/out", f"{source}.self_attn.out_proj"),
            **layer_norm_names(f"{target}/norm2", f"{source}.layer_norm2"),
            **dense_names(f"{target}/mlp/fc1", f"{source}.mlp.fc1"),
            **dense_names(f"{target}/mlp/fc2", f"{source}.mlp.fc2"),
        }
    return names


def clip_names(**sizes: Any) -> NameMap:
    """transformers' CLIPModel and CLIPVisionModelWithProjection; without `projection`, CLIPVisionModel."""
    net = VisionTransformer(**sizes)
    names = {
        "params/class_token": ("embeddings.class_embedding", "rows"),
        "params/positions": ("embeddings.position_embedding.weight", "rows"),
        "params/patches/projection/kernel": ("embeddings.patch_embedding.weight", "conv"),
        **layer_norm_names("pre_norm", "pre_layrnorm"),  # spelt so
        **_blocks(net.depth),
        **layer_norm_names("norm", "post_layernorm"),
    }
    if net.projection:
        names["params/projection/kernel"] = ("visual_projection.weight", "dense")
    return names


def siglip_names(**sizes: Any) -> NameMap:
    """transformers' SiglipModel and SiglipVisionModel."""
    net = VisionTransformer(**sizes)
    return {
        "params/positions": ("embeddings.position_embedding.weight", "rows"),
        **conv_names("patches/projection", "embeddings.patch_embedding"),
        **_blocks(net.depth),
        **layer_norm_names("norm", "post_layernorm"),
        "params/pool/probe": ("head.probe", "rows"),
        **dense_names("pool/qkv", "head.attention.in_proj", joint="_"),
        **dense_names("pool/out", "head.attention.out_proj"),
        **layer_norm_names("pool/norm", "head.layernorm"),
        **dense_names("pool/mlp/fc1", "head.mlp.fc1"),
        **dense_names("pool/mlp/fc2", "head.mlp.fc2"),
    }


def text_names(**sizes: Any) -> NameMap:
    """transformers' CLIPModel and CLIPTextModelWithProjection; without `projection`, CLIPTextModel."""
    net = ClipText(**sizes)
    names = {
        "params/tokens/embedding": ("embeddings.token_embedding.weight", "keep"),
        "params/positions": ("embeddings.position_embedding.weight", "rows"),
        **_blocks(net.depth),
        **layer_norm_names("norm", "final_layer_norm"),
    }
    if net.projection:
        names["params/projection/kernel"] = ("text_projection.weight", "dense")
    return names


def clip_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The image tower's sizes in a config.json of both towers, or of its own. Raises ValueError for what is not known."""
    tower = _tower(config, "vision_config")
    sizes = encoder_sizes({"hidden_act": "quick_gelu"} | tower, patch=32, image_size=224, epsilon=1e-5)
    return sizes | {"pre_norm": True, "patch_bias": False, "projection": _projection(config, tower)}


def siglip_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The image tower's sizes in a config.json of both towers, or of its own. Raises ValueError for what is not known."""
    tower = {"hidden_act": "gelu_pytorch_tanh"} | _tower(config, "vision_config")
    if not tower.get("vision_use_head", True):
        raise ValueError("config.json: vision_use_head is false; only true is known")
    return encoder_sizes(tower, patch=16, image_size=224, epsilon=1e-6) | {"pool": "attention"}


def text_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The text tower's sizes in a config.json of both towers, or of its own. Raises ValueError for what is not known."""
    defaults = {
        "hidden_act": "quick_gelu",
        "hidden_size": 512,
        "num_attention_heads": 8,
        "intermediate_size": 2048,
    }
    tower = defaults | _tower(config, "text_config")
    sizes = encoder_sizes(tower, patch=0, image_size=0, epsilon=1e-5)
    end = tower.get("eos_token_id", 49407)
    return {key: sizes[key] for key in ("width", "depth", "heads", "hidden", "activation", "epsilon")} | {
        "vocabulary": tower.get("vocab_size", 49408),
        "length": tower.get("max_position_embeddings", 77),
        # 2 stands in configs of before the marks were numbered; the end mark is then the greatest id, as in CLIP's own.
        "end": None if end == 2 else end,
        "projection": _projection(config, tower),
    }


def _tower(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    return dict(config.get(part) or {}) if config["model_type"] in ("clip", "siglip") else dict(config)


def _projection(config: Mapping[str, Any], tower: Mapping[str, Any]) -> int:
    if config["model_type"] == "clip":
        return config.get("projection_dim", 512)
    projects = any("WithProjection" in name for name in config.get("architectures") or ())
    return tower.get("projection_dim", 512) if projects else 0


def _openai(size: str, patch: int, pixels: int, projection: int) -> Variant:
    sizes = shape(
        size,
        patch=patch,
        image_size=pixels,
        projection=projection,
        pre_norm=True,
        patch_bias=False,
        activation="quick_gelu",
        epsilon=1e-5,
    )
    return Variant(sizes, CLIP_PICTURES._replace(size=pixels, resize=pixels))


def _google(pixels: int, **sizes: Any) -> Variant:
    fields = {"pool": "attention", "activation": "gelu_tanh", "image_size": pixels} | sizes
    return Variant(fields, Preprocessing(size=pixels, interpolation="bicubic"))


CLIP = Family(
    arch="vit",
    title="clip",
    reference="Radford et al. 2021, arXiv 2103.00020",
    variants={
        "openai/clip-vit-base-patch32": _openai("base", 32, 224, 512),
        "openai/clip-vit-base-patch16": _openai("base", 16, 224, 512),
        "openai/clip-vit-large-patch14": _openai("large", 14, 224, 768),
        "openai/clip-vit-large-patch14-336": _openai("large", 14, 336, 768),
    },
    dialects={
        "huggingface": Dialect(
            clip_names,
            prefix="vision_model.",
            ignore=NUMBERS,
            others=("text_model.", "text_projection.", "logit_scale"),
        )
    },
    model_types=("clip", "clip_vision_model"),
    sizes_from_config=clip_sizes,
)
SIGLIP = Family(
    arch="vit",
    title="siglip",
    reference="Zhai et al. 2023, arXiv 2303.15343",
    variants={
        **{f"google/siglip-base-patch16-{pixels}": _google(pixels) for pixels in (224, 256, 384, 512)},
        **{
            f"google/siglip-large-patch16-{pixels}": _google(pixels, **shape("large"))
            for pixels in (256, 384)
        },
        **{
            f"google/siglip-so400m-patch14-{pixels}": _google(
                pixels, width=1152, depth=27, heads=16, hidden=4304, patch=14
            )
            for pixels in (224, 384)
        },
    },
    dialects={
        "huggingface": Dialect(
            siglip_names,
            prefix="vision_model.",
            ignore=NUMBERS,
            others=("text_model.", "logit_scale", "logit_bias"),
        )
    },
    model_types=("siglip", "siglip_vision_model"),
    sizes_from_config=siglip_sizes,
)
_LARGE_TEXT = {"width": 768, "heads": 12, "hidden": 3072, "projection": 768}
CLIP_TEXT = Family(
    arch="clip_text",
    reference="Radford et al. 2021, arXiv 2103.00020",
    inputs="tokens",
    variants={
        name: Variant(sizes, Preprocessing())
        for name, sizes in (
            ("openai/clip-vit-base-patch32", {}),
            ("openai/clip-vit-base-patch16", {}),
            ("openai/clip-vit-large-patch14", _LARGE_TEXT),
            ("openai/clip-vit-large-patch14-336", _LARGE_TEXT),
        )
    },
    dialects={
        "huggingface": Dialect(
            text_names,
            prefix="text_model.",
            ignore=NUMBERS,
            others=("vision_model.", "visual_projection.", "logit_scale"),
        )
    },
    model_types=("clip", "clip_text_model"),
    sizes_from_config=text_sizes,
)
