"""Published MobileNets V1 and V2: Google's, as Hugging Face folders, and torchvision's and timm's V2."""

from collections.abc import Mapping
from typing import Any

from kdhash.models.mobilenet import V1_BLOCKS, V2_STAGES
from kdhash.teachers.convert import NameMap
from kdhash.teachers.families.family import (
    Dialect,
    Family,
    Variant,
    conv_norm_names,
    dense_names,
    flat_dense_names,
)
from kdhash.teachers.preprocessing import IMAGENET, Preprocessing

# Counters of training steps are no weights: newer PyTorch writes them, older does not.
COUNTERS = ("num_batches_tracked",)
V2_BLOCKS = sum(repeats for _, _, repeats in V2_STAGES)


def _hf_unit(target: str, source: str) -> dict[str, tuple[str, str]]:
    return conv_norm_names(target, f"{source}.convolution", f"{source}.normalization")


def v1_huggingface_names(**_sizes: Any) -> NameMap:
    """transformers' MobileNetV1ForImageClassification."""
    names = {**_hf_unit("stem", "conv_stem"), **dense_names("classifier", "classifier")}
    for i in range(len(V1_BLOCKS)):
        names |= _hf_unit(f"block{i}_depthwise", f"layer.{2 * i}")
        names |= _hf_unit(f"block{i}_pointwise", f"layer.{2 * i + 1}")
    return names


def v2_huggingface_names(**_sizes: Any) -> NameMap:
    """transformers' MobileNetV2ForImageClassification."""
    names = {
        **_hf_unit("stem", "conv_stem.first_conv"),
        **_hf_unit("block0/depthwise", "conv_stem.conv_3x3"),
        **_hf_unit("block0/project", "conv_stem.reduce_1x1"),
        **_hf_unit("last", "conv_1x1"),
        **dense_names("classifier", "classifier"),
    }
    parts = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}
    for i in range(V2_BLOCKS):
        for target, source in parts.items():
            names |= _hf_unit(f"block{i + 1}/{target}", f"layer.{i}.{source}")
    return names


def v2_torchvision_names(**_sizes: Any) -> NameMap:
    """torchvision's mobilenet_v2."""
    last = V2_BLOCKS + 2
    names = {
        **conv_norm_names("stem", "features.0.0", "features.0.1"),
        **conv_norm_names("block0/depthwise", "features.1.conv.0.0", "features.1.conv.0.1"),
        **conv_norm_names("block0/project", "features.1.conv.1", "features.1.conv.2"),
        **conv_norm_names("last", f"features.{last}.0", f"features.{last}.1"),
        **dense_names("classifier", "classifier.1"),
    }
    for i in range(1, V2_BLOCKS + 1):
        source = f"features.{i + 1}.conv"
        names |= conv_norm_names(f"block{i}/expand", f"{source}.0.0", f"{source}.0.1")
        names |= conv_norm_names(f"block{i}/depthwise", f"{source}.1.0", f"{source}.1.1")
        names |= conv_norm_names(f"block{i}/project", f"{source}.2", f"{source}.3")
    return names


def v2_timm_names(**_sizes: Any) -> NameMap:
    """timm's mobilenetv2."""
    names = timm_ends() | timm_inverted_names("block0", "blocks.0.0", expands=False)
    number = 1
    for i, (_, _, repeats) in enumerate(V2_STAGES):
        for j in range(repeats):
            names |= timm_inverted_names(f"block{number}", f"blocks.{i + 1}.{j}")
            number += 1
    return names


def timm_ends() -> dict[str, Any]:
    """First and last layers of timm's EfficientNets, to which it counts MobileNetV2."""
    return {
        **conv_norm_names("stem", "conv_stem", "bn1"),
        **conv_norm_names("last", "conv_head", "bn2"),
        **dense_names("classifier", "classifier"),
    }


def timm_inverted_names(
    target: str, source: str, *, expands: bool = True, squeezes: bool = False
) -> dict[str, Any]:
    """timm's InvertedResidual, or its DepthwiseSeparableConv where nothing is expanded."""
    parts = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
    if not expands:
        parts = {"depthwise": "conv_dw", "project": "conv_pw"}
    names: dict[str, Any] = {}
    for i, (part, conv) in enumerate(parts.items(), start=1):
        names |= conv_norm_names(f"{target}/{part}", f"{source}.{conv}", f"{source}.bn{i}")
    if squeezes:
        names |= flat_dense_names(f"{target}/squeeze", f"{source}.se.conv_reduce")
        names |= flat_dense_names(f"{target}/excite", f"{source}.se.conv_expand")
    return names


def v1_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a config.json. Raises ValueError for what this network cannot express."""
    _check(config, {"hidden_act": "relu6"})
    return {
        "multiplier": config.get("depth_multiplier", 1.0),
        "min_width": config.get("min_depth", 8),
        "same_padding": config.get("tf_padding", True),
        "epsilon": config.get("layer_norm_eps", 1e-3),
    }


def v2_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a config.json. Raises ValueError for what this network cannot express."""
    _check(config, {"hidden_act": "relu6", "output_stride": 32, "first_layer_is_expansion": True})
    return v1_sizes(config) | {
        "divisor": config.get("depth_divisible_by", 8),
        "expansion": config.get("expand_ratio", 6.0),
        "wide_output": config.get("finegrained_output", True),
    }


def _check(config: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for field, value in known.items():
        if config.get(field, value) != value:
            raise ValueError(f"config.json: {field} is {config[field]!r}; only {value!r} is known")


PYTORCH = {"same_padding": False, "epsilon": 1e-5}


def _google(size: int) -> Preprocessing:
    return Preprocessing(size=size)


V1 = Family(
    arch="mobilenet_v1",
    reference="Howard et al. 2017, arXiv 1704.04861",
    variants={
        f"mobilenet_v1_{multiplier}_{size}": Variant({"multiplier": multiplier}, _google(size))
        for multiplier, size in ((1.0, 224), (0.75, 192), (0.5, 160), (0.25, 128))
    },
    dialects={"huggingface": Dialect(v1_huggingface_names, prefix="mobilenet_v1.", ignore=COUNTERS)},
    model_types=("mobilenet_v1",),
    sizes_from_config=v1_sizes,
)
V2 = Family(
    arch="mobilenet_v2",
    reference="Sandler et al. 2018, arXiv 1801.04381",
    variants={
        **{
            f"mobilenet_v2_{multiplier}_{size}": Variant(
                {"multiplier": multiplier}, _google(size), ("huggingface",)
            )
            for multiplier, size in ((1.4, 224), (1.0, 224), (0.75, 160), (0.35, 96))
        },
        "mobilenet_v2": Variant(PYTORCH, IMAGENET, ("torchvision",)),
        **{
            f"mobilenetv2_{round(100 * multiplier):03}": Variant(
                {"multiplier": multiplier, **PYTORCH}, IMAGENET._replace(interpolation="bicubic"), ("timm",)
            )
            for multiplier in (0.5, 1.0, 1.4)
        },
    },
    dialects={
        "huggingface": Dialect(v2_huggingface_names, prefix="mobilenet_v2.", ignore=COUNTERS),
        "torchvision": Dialect(v2_torchvision_names, ignore=COUNTERS),
        "timm": Dialect(v2_timm_names, ignore=COUNTERS),
    },
    model_types=("mobilenet_v2",),
    sizes_from_config=v2_sizes,
)
