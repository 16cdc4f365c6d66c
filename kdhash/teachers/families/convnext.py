"""Published ConvNeXts: torchvision's, timm's, and Facebook's as Hugging Face folders."""

from collections.abc import Mapping
from typing import Any

from kdhash.models.convnext import ConvNeXt
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
    "small": {"depths": (3, 3, 27, 3)},
    "base": {"depths": (3, 3, 27, 3), "widths": (128, 256, 512, 1024)},
    "large": {"depths": (3, 3, 27, 3), "widths": (192, 384, 768, 1536)},
    "xlarge": {"depths": (3, 3, 27, 3), "widths": (256, 512, 1024, 2048)},
}
# The shorter side before the cut to 224 pixels.
TORCHVISION_SIDES = {"tiny": 236, "small": 230, "base": 232, "large": 232}


def timm_names(**sizes: Any) -> NameMap:
    """timm's ConvNeXt."""
    net = ConvNeXt(**sizes)
    names: dict[str, Any] = {
        **conv_names("stem", "stem.0"),
        **layer_norm_names("stem_norm", "stem.1"),
        **layer_norm_names("norm", "head.norm"),
        **dense_names("classifier", "head.fc"),
    }
    for i, depth in enumerate(net.depths):
        if i:
            names |= layer_norm_names(f"smaller{i}_norm", f"stages.{i}.downsample.0")
            names |= conv_names(f"smaller{i}", f"stages.{i}.downsample.1")
        for j in range(depth):
            parts = {"depthwise": "conv_dw", "norm": "norm", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
            names |= _block(f"stage{i}_block{j}", f"stages.{i}.blocks.{j}", parts, "gamma")
    return names


def torchvision_names(**sizes: Any) -> NameMap:
    """torchvision's ConvNeXt."""
    net = ConvNeXt(**sizes)
    names: dict[str, Any] = {
        **conv_names("stem", "features.0.0"),
        **layer_norm_names("stem_norm", "features.0.1"),
        **layer_norm_names("norm", "classifier.0"),
        **dense_names("classifier", "classifier.2"),
    }
    for i, depth in enumerate(net.depths):
        if i:
            names |= layer_norm_names(f"smaller{i}_norm", f"features.{2 * i}.0")
            names |= conv_names(f"smaller{i}", f"features.{2 * i}.1")
        for j in range(depth):
            parts = {"depthwise": "block.0", "norm": "block.2", "fc1": "block.3", "fc2": "block.5"}
            names |= _block(f"stage{i}_block{j}", f"features.{2 * i + 1}.{j}", parts, "layer_scale")
    return names


def huggingface_names(**sizes: Any) -> NameMap:
    """transformers' ConvNextForImageClassification."""
    net = ConvNeXt(**sizes)
    names: dict[str, Any] = {
        **conv_names("stem", "embeddings.patch_embeddings"),
        **layer_norm_names("stem_norm", "embeddings.layernorm"),
        **layer_norm_names("norm", "layernorm"),
        **dense_names("classifier", "classifier"),
    }
    for i, depth in enumerate(net.depths):
        stage = f"encoder.stages.{i}"
        if i:
            names |= layer_norm_names(f"smaller{i}_norm", f"{stage}.downsampling_layer.0")
            names |= conv_names(f"smaller{i}", f"{stage}.downsampling_layer.1")
        for j in range(depth):
            parts = {"depthwise": "dwconv", "norm": "layernorm", "fc1": "pwconv1", "fc2": "pwconv2"}
            source = f"{stage}.layers.{j}"
            names |= _block(f"stage{i}_block{j}", source, parts, "layer_scale_parameter")
    return names


def _block(target: str, source: str, parts: Mapping[str, str], scale: str) -> dict[str, Any]:
    return {
        **conv_names(f"{target}_depthwise", f"{source}.{parts['depthwise']}"),
        **layer_norm_names(f"{target}_norm", f"{source}.{parts['norm']}"),
        **dense_names(f"{target}_mlp/fc1", f"{source}.{parts['fc1']}"),
        **dense_names(f"{target}_mlp/fc2", f"{source}.{parts['fc2']}"),
        f"params/{target}_scale": (f"{source}.{scale}", "flat"),
    }


def sizes_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a config.json. Raises ValueError for what this network cannot express."""
    for field, known in (("hidden_act", "gelu"), ("patch_size", 4), ("num_channels", 3)):
        if config.get(field, known) != known:
            raise ValueError(f"config.json: {field} is {config[field]!r}; only {known!r} is known")
    if not config.get("layer_scale_init_value", 1e-6) > 0:
        raise ValueError(
            "config.json: layer_scale_init_value is 0; networks without layer scale are not known"
        )
    defaults = ConvNeXt()
    return {
        "depths": tuple(config.get("depths") or defaults.depths),
        "widths": tuple(config.get("hidden_sizes") or defaults.widths),
    }


_CUT = IMAGENET._replace(interpolation="bicubic")  # 224 of 256
FAMILY = Family(
    arch="convnext",
    reference="Liu et al. 2022, arXiv 2201.03545",
    variants={
        **{
            f"convnext_{size}": Variant(sizes, _CUT, ("timm", "huggingface")) for size, sizes in SIZES.items()
        },
        **{
            f"torchvision/convnext_{size}": Variant(
                SIZES[size], IMAGENET._replace(resize=side), ("torchvision",)
            )
            for size, side in TORCHVISION_SIDES.items()
        },
    },
    dialects={
        "timm": Dialect(timm_names),
        "torchvision": Dialect(torchvision_names),
        "huggingface": Dialect(huggingface_names, prefix="convnext."),
    },
    model_types=("convnext",),
    sizes_from_config=sizes_from_config,
)
