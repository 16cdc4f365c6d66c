"""Published DenseNets: torchvision's, and the same in timm's names."""

from typing import Any

from kdhash.models.densenet import DenseNet
from kdhash.teachers.convert import NameMap
from kdhash.teachers.families.family import (
    Dialect,
    Family,
    Variant,
    conv_norm_names,
    dense_names,
    norm_names,
)
from kdhash.teachers.preprocessing import IMAGENET

SIZES: dict[str, dict[str, Any]] = {
    "densenet121": {},
    "densenet161": {"blocks": (6, 12, 36, 24), "growth": 48, "stem_width": 96},
    "densenet169": {"blocks": (6, 12, 32, 32)},
    "densenet201": {"blocks": (6, 12, 48, 32)},
}
COUNTERS = ("num_batches_tracked",)  # of training steps: no weights


def names(mark: str = "", **sizes: Any) -> NameMap:
    """torchvision's and timm's DenseNet."""
    net = DenseNet(**sizes)
    table: dict[str, Any] = {
        **conv_norm_names("stem", "features.conv0", "features.norm0"),
        **norm_names("norm", "features.norm5"),
        **dense_names("classifier", "classifier"),
    }
    for i, layers in enumerate(net.blocks):
        if i:
            table[f"params/transition{i}_conv/kernel"] = (
                f"features.transition{i}.conv.weight",
                "conv",
            )
            table |= norm_names(f"transition{i}_norm", f"features.transition{i}.norm")
        for j in range(layers):
            target, source = f"block{i}_layer{j}", f"features.denseblock{i + 1}.denselayer{j + 1}"
            for part in ("1", "2"):
                table[f"params/{target}_conv{part}/kernel"] = (f"{source}.conv{mark}{part}.weight", "conv")
                table |= norm_names(f"{target}_norm{part}", f"{source}.norm{mark}{part}")
    return table


def first_names(**sizes: Any) -> NameMap:
    """The files that torchvision still publishes, saved before its layers were renamed: norm.1 for norm1."""
    return names(mark=".", **sizes)


FAMILY = Family(
    arch="densenet",
    reference="Huang et al. 2017, arXiv 1608.06993",
    variants={name: Variant(sizes, IMAGENET) for name, sizes in SIZES.items()},
    dialects={
        "torchvision": Dialect(first_names, ignore=COUNTERS),
        "timm": Dialect(names, ignore=COUNTERS),  # and torchvision's, when saved again
    },
)
