"""Published EfficientNets B0 to B7: torchvision's, timm's, and Google's, in timm's names and as Hugging Face folders."""

import math
from collections.abc import Mapping
from typing import Any

from kdhash.models.efficientnet import STAGES, depths
from kdhash.teachers.convert import NameMap
from kdhash.teachers.families.family import (
    Dialect,
    Family,
    Variant,
    conv_norm_names,
    dense_names,
    flat_dense_names,
)
from kdhash.teachers.families.mobilenet import COUNTERS, timm_ends, timm_inverted_names
from kdhash.teachers.families.mobilenet_v3 import torchvision_inverted_names
from kdhash.teachers.preprocessing import IMAGENET, Preprocessing

# wider, deeper, pixels, timm's cut
SCALES = (
    (1.0, 1.0, 224, 0.875),
    (1.0, 1.1, 240, 0.882),
    (1.1, 1.2, 260, 0.89),
    (1.2, 1.4, 300, 0.904),
    (1.4, 1.8, 380, 0.922),
    (1.6, 2.2, 456, 0.934),
    (1.8, 2.6, 528, 0.942),
    (2.0, 3.1, 600, 0.949),
)
# torchvision's shorter sides and cuts; timm's own training: pixels and cut, where weights are published.
TORCHVISION = ((256, 224), (256, 240), (288, 288), (320, 300), (384, 380), (456, 456), (528, 528), (600, 600))
TIMM = ((224, 0.875), (240, 0.882), (256, 0.875), (288, 0.875), (320, 0.875), (448, 1.0))


def timm_names(deeper: float = 1.0, **_sizes: Any) -> NameMap:
    """timm's EfficientNet."""
    names = timm_ends()
    for i, depth in enumerate(depths(deeper)):
        for j in range(depth):
            target = f"stage{i}_block{j}"
            names |= timm_inverted_names(target, f"blocks.{i}.{j}", expands=_expands(i), squeezes=True)
    return names


def torchvision_names(deeper: float = 1.0, **_sizes: Any) -> NameMap:
    """torchvision's EfficientNet."""
    last = len(STAGES) + 1
    names: dict[str, Any] = {
        **conv_norm_names("stem", "features.0.0", "features.0.1"),
        **conv_norm_names("last", f"features.{last}.0", f"features.{last}.1"),
        **dense_names("classifier", "classifier.1"),
    }
    for i, depth in enumerate(depths(deeper)):
        for j in range(depth):
            source = f"features.{i + 1}.{j}.block"
            names |= torchvision_inverted_names(
                f"stage{i}_block{j}", source, expands=_expands(i), squeezes=True
            )
    return names


def huggingface_names(deeper: float = 1.0, **_sizes: Any) -> NameMap:
    """transformers' EfficientNetForImageClassification."""
    names: dict[str, Any] = {
        **conv_norm_names("stem", "embeddings.convolution", "embeddings.batchnorm"),
        **conv_norm_names("last", "encoder.top_conv", "encoder.top_bn"),
        **dense_names("classifier", "classifier"),
    }
    number = 0
    for i, depth in enumerate(depths(deeper)):
        for j in range(depth):
            target, source = f"stage{i}_block{j}", f"encoder.blocks.{number}"
            depthwise = f"{source}.depthwise_conv.depthwise"
            project = f"{source}.projection.project"
            names |= {
                **conv_norm_names(f"{target}/depthwise", f"{depthwise}_conv", f"{depthwise}_norm"),
                **flat_dense_names(f"{target}/squeeze", f"{source}.squeeze_excite.reduce"),
                **flat_dense_names(f"{target}/excite", f"{source}.squeeze_excite.expand"),
                **conv_norm_names(f"{target}/project", f"{project}_conv", f"{project}_bn"),
            }
            if _expands(i):
                expand = f"{source}.expansion.expand"
                names |= conv_norm_names(f"{target}/expand", f"{expand}_conv", f"{expand}_bn")
            number += 1
    return names


def _expands(stage: int) -> bool:
    return STAGES[stage][0] != 1


def sizes_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a config.json. Raises ValueError for what this network cannot express."""
    columns = list(zip(*STAGES, strict=True))
    known_fields: dict[str, Any] = {
        "hidden_act": "swish",
        "num_channels": 3,
        "depth_divisor": 8,
        "squeeze_expansion_ratio": 0.25,
        "pooling_type": "mean",
        "expand_ratios": list(columns[0]),
        "kernel_sizes": list(columns[1]),
        "strides": list(columns[2]),
        "out_channels": list(columns[3]),
        "num_block_repeats": list(columns[4]),
    }
    for field, known in known_fields.items():
        if config.get(field, known) != known:
            raise ValueError(f"config.json: {field} is {config[field]!r}; only {known!r} is known")
    return {
        "wider": config.get("width_coefficient", 2.0),
        "deeper": config.get("depth_coefficient", 3.1),
        "epsilon": config.get("batch_norm_eps", 1e-3),
        "same_padding": True,
    }


def _variants() -> dict[str, Variant]:
    cubic = IMAGENET._replace(interpolation="bicubic")
    variants = {}
    for i, (wider, deeper, pixels, cut) in enumerate(SCALES):
        sizes = {"wider": wider, "deeper": deeper}
        shorter, middle = TORCHVISION[i]
        # torchvision took B5 to B7 from Google's, with their norm but not their padding.
        own = sizes | {"epsilon": 1e-3} if i >= 5 else sizes
        wanted = cubic._replace(size=middle, resize=shorter)
        variants[f"torchvision/efficientnet_b{i}"] = Variant(own, wanted, ("torchvision",))
        if i < len(TIMM):
            side, part = TIMM[i]
            wanted = cubic._replace(size=side, resize=math.floor(side / part))
            variants[f"efficientnet_b{i}"] = Variant(sizes, wanted, ("timm",))
        google = sizes | {"epsilon": 1e-3, "same_padding": True}
        wanted = cubic._replace(size=pixels, resize=math.floor(pixels / cut))
        variants[f"tf_efficientnet_b{i}"] = Variant(google, wanted, ("timm",))
        whole = Preprocessing(pixels, None, "nearest", IMAGENET.mean, IMAGENET.std)
        variants[f"google/efficientnet-b{i}"] = Variant(google, whole, ("huggingface",))
    return variants


FAMILY = Family(
    arch="efficientnet",
    reference="Tan & Le 2019, arXiv 1905.11946",
    variants=_variants(),
    dialects={
        "timm": Dialect(timm_names, ignore=COUNTERS),
        "torchvision": Dialect(torchvision_names, ignore=COUNTERS),
        "huggingface": Dialect(huggingface_names, prefix="efficientnet.", ignore=COUNTERS),
    },
    model_types=("efficientnet",),
    sizes_from_config=sizes_from_config,
)
