"""Published ResNets, ResNeXts and Wide ResNets."""

from collections.abc import Mapping
from typing import Any

from kdhash.teachers.convert import NameMap
from kdhash.teachers.families.family import Dialect, Family, Variant, conv_norm_names, dense_names
from kdhash.teachers.preprocessing import IMAGENET

BASIC = {"block": "basic"}
SIZES: dict[str, dict[str, Any]] = {
    "resnet18": {"depths": (2, 2, 2, 2), **BASIC},
    "resnet34": {"depths": (3, 4, 6, 3), **BASIC},
    "resnet50": {"depths": (3, 4, 6, 3)},
    "resnet101": {"depths": (3, 4, 23, 3)},
    "resnet152": {"depths": (3, 8, 36, 3)},
    "resnext50_32x4d": {"depths": (3, 4, 6, 3), "groups": 32, "group_width": 4},
    "resnext101_32x8d": {"depths": (3, 4, 23, 3), "groups": 32, "group_width": 8},
    "wide_resnet50_2": {"depths": (3, 4, 6, 3), "group_width": 128},
    "wide_resnet101_2": {"depths": (3, 4, 23, 3), "group_width": 128},
}


def torchvision_names(*, depths: tuple[int, ...], block: str = "bottleneck", **sizes: Any) -> NameMap:
    """torchvision's names, which timm uses too."""
    names = {**conv_norm_names("stem", "conv1", "bn1"), **dense_names("classifier", "fc")}
    for stage, depth in enumerate(depths):
        for i in range(depth):
            target, source = f"stage{stage}_block{i}", f"layer{stage + 1}.{i}"
            for j in range(2 if block == "basic" else 3):
                names |= conv_norm_names(f"{target}/conv{j}", f"{source}.conv{j + 1}", f"{source}.bn{j + 1}")
            if i == 0 and (stage > 0 or _first_projects(block, **sizes)):
                names |= conv_norm_names(
                    f"{target}/shortcut", f"{source}.downsample.0", f"{source}.downsample.1"
                )
    return names


def huggingface_names(*, depths: tuple[int, ...], block: str = "bottleneck", **sizes: Any) -> NameMap:
    """transformers' ResNetForImageClassification."""
    names = {**_hf_unit("stem", "embedder.embedder"), **dense_names("classifier", "classifier.1")}
    for stage, depth in enumerate(depths):
        for i in range(depth):
            target, source = f"stage{stage}_block{i}", f"encoder.stages.{stage}.layers.{i}"
            for j in range(2 if block == "basic" else 3):
                names |= _hf_unit(f"{target}/conv{j}", f"{source}.layer.{j}")
            if i == 0 and (stage > 0 or _first_projects(block, **sizes)):
                names |= _hf_unit(f"{target}/shortcut", f"{source}.shortcut")
    return names


def _first_projects(
    block: str, widths: tuple[int, ...] = (64, 128, 256, 512), stem_width: int = 64, **_sizes: Any
) -> bool:
    """Whether the very first block changes the number of channels, and so has a projection for its shortcut."""
    return stem_width != widths[0] * (1 if block == "basic" else 4)


def _hf_unit(target: str, source: str) -> dict[str, tuple[str, str]]:
    return conv_norm_names(target, f"{source}.convolution", f"{source}.normalization")


def sizes_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a config.json. Raises ValueError for forms of ResNet that transformers can express and this cannot."""
    basic = config.get("layer_type", "bottleneck") == "basic"
    hidden = config.get("hidden_sizes", (256, 512, 1024, 2048))
    if config.get("downsample_in_bottleneck") or config.get("downsample_in_first_stage"):
        raise ValueError("config.json: downsample_in_bottleneck and downsample_in_first_stage must be false")
    if config.get("hidden_act", "relu") != "relu":
        raise ValueError(f"config.json: hidden_act is {config['hidden_act']!r}; only 'relu' is known")
    return {
        "depths": tuple(config.get("depths", (3, 4, 6, 3))),
        "block": "basic" if basic else "bottleneck",
        "widths": tuple(hidden) if basic else tuple(width // 4 for width in hidden),
        "stem_width": config.get("embedding_size", 64),
    }


FAMILY = Family(
    arch="resnet",
    reference="He et al. 2016, arXiv 1512.03385; ResNeXt arXiv 1611.05431; Wide ResNet arXiv 1605.07146",
    variants={name: Variant(sizes, IMAGENET) for name, sizes in SIZES.items()},
    dialects={
        # Counters of training steps are no weights: newer PyTorch writes them, older does not.
        "torchvision": Dialect(torchvision_names, ignore=("num_batches_tracked",)),
        "huggingface": Dialect(huggingface_names, prefix="resnet.", ignore=("num_batches_tracked",)),
    },
    model_types=("resnet",),
    sizes_from_config=sizes_from_config,
)
