"""Published MobileNetV3: torchvision's, and timm's, of which some were Google's."""

from typing import Any

from kdhash.models.mobilenet import V3_LAYOUTS
from kdhash.teachers.convert import NameMap
from kdhash.teachers.families.family import (
    Dialect,
    Family,
    Variant,
    conv_norm_names,
    dense_names,
    flat_dense_names,
)
from kdhash.teachers.families.mobilenet import COUNTERS, timm_inverted_names
from kdhash.teachers.preprocessing import IMAGENET, Preprocessing

STEM = 16  # channels; a block of as many inner ones does not expand them


def torchvision_names(layout: str = "large", **_sizes: Any) -> NameMap:
    """torchvision's MobileNetV3."""
    rows = [row for stage in V3_LAYOUTS[layout][0] for row in stage]
    last = len(rows) + 1
    names: dict[str, Any] = {
        **conv_norm_names("stem", "features.0.0", "features.0.1"),
        **conv_norm_names("last", f"features.{last}.0", f"features.{last}.1"),
        **flat_dense_names("hidden", "classifier.0"),
        **dense_names("classifier", "classifier.3"),
    }
    for i, (_, inner, _, squeezes, _, _) in enumerate(rows):
        names |= torchvision_inverted_names(
            f"block{i}", f"features.{i + 1}.block", expands=inner != STEM, squeezes=squeezes
        )
    return names


def torchvision_inverted_names(target: str, source: str, *, expands: bool, squeezes: bool) -> dict[str, Any]:
    """torchvision's InvertedResidual and MBConv: a list of what there is."""
    parts = ["expand"] * expands + ["depthwise"] + ["squeeze"] * squeezes + ["project"]
    names: dict[str, Any] = {}
    for i, part in enumerate(parts):
        if part == "squeeze":
            names |= flat_dense_names(f"{target}/squeeze", f"{source}.{i}.fc1")
            names |= flat_dense_names(f"{target}/excite", f"{source}.{i}.fc2")
        else:
            names |= conv_norm_names(f"{target}/{part}", f"{source}.{i}.0", f"{source}.{i}.1")
    return names


def timm_names(layout: str = "large", **_sizes: Any) -> NameMap:
    """timm's MobileNetV3, whose dense layer is a convolution."""
    stages = V3_LAYOUTS[layout][0]
    last = f"blocks.{len(stages)}.0"
    names: dict[str, Any] = {
        **conv_norm_names("stem", "conv_stem", "bn1"),
        **conv_norm_names("last", f"{last}.conv", f"{last}.bn1"),
        **flat_dense_names("hidden", "conv_head"),
        **dense_names("classifier", "classifier"),
    }
    number = 0
    for i, stage in enumerate(stages):
        for j, (_, inner, _, squeezes, _, _) in enumerate(stage):
            names |= timm_inverted_names(
                f"block{number}", f"blocks.{i}.{j}", expands=inner != STEM, squeezes=squeezes
            )
            number += 1
    return names


_CUBIC = IMAGENET._replace(interpolation="bicubic")
FAMILY = Family(
    arch="mobilenet_v3",
    reference="Howard et al. 2019, arXiv 1905.02244",
    variants={
        **{
            f"mobilenet_v3_{layout}": Variant({"layout": layout, "epsilon": 1e-3}, IMAGENET, ("torchvision",))
            for layout in V3_LAYOUTS
        },
        **{
            f"mobilenetv3_{layout}_100": Variant({"layout": layout}, _CUBIC, ("timm",))
            for layout in V3_LAYOUTS
        },
        **{
            f"tf_mobilenetv3_{layout}_100": Variant(
                {"layout": layout, "same_padding": True, "epsilon": 1e-3},
                Preprocessing(resize=256, cut="round"),
                ("timm",),
            )
            for layout in V3_LAYOUTS
        },
    },
    dialects={
        "torchvision": Dialect(torchvision_names, ignore=COUNTERS),
        "timm": Dialect(timm_names, ignore=COUNTERS),
    },
)
