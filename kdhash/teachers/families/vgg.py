"""Published VGG: torchvision's, and the same in timm's names."""

from typing import Any

from kdhash.models.vgg import DEPTHS
from kdhash.teachers.convert import NameMap
from kdhash.teachers.families.family import Dialect, Family, Variant, conv_names, dense_names, norm_names
from kdhash.teachers.preprocessing import IMAGENET

COUNTERS = ("num_batches_tracked",)  # of training steps: no weights


def _convolutions(depth: int, norm: bool) -> dict[str, Any]:
    names: dict[str, Any] = {}
    number = place = 0
    for convolutions in DEPTHS[depth]:
        for _ in range(convolutions):
            names |= conv_names(f"conv{number}", f"features.{place}")
            if norm:
                names |= norm_names(f"norm{number}", f"features.{place + 1}")
            number, place = number + 1, place + 2 + norm  # a ReLU takes a place
        place += 1  # and so does the pooling
    return names


def _head(first: str, second: str, last: str) -> dict[str, Any]:
    return {
        "params/fc1/kernel": (f"{first}.weight", "conv7"),
        "params/fc1/bias": (f"{first}.bias", "keep"),
        "params/fc2/kernel": (f"{second}.weight", "flat_dense"),
        "params/fc2/bias": (f"{second}.bias", "keep"),
        **dense_names("classifier", last),
    }


def torchvision_names(depth: int = 16, norm: bool = False, **_sizes: Any) -> NameMap:
    """torchvision's VGG."""
    return _convolutions(depth, norm) | _head("classifier.0", "classifier.3", "classifier.6")


def timm_names(depth: int = 16, norm: bool = False, **_sizes: Any) -> NameMap:
    """timm's VGG, whose dense layers are convolutions."""
    return _convolutions(depth, norm) | _head("pre_logits.fc1", "pre_logits.fc2", "head.fc")


FAMILY = Family(
    arch="vgg",
    reference="Simonyan & Zisserman 2015, arXiv 1409.1556",
    variants={
        f"{source}vgg{depth}{'_bn' if norm else ''}": Variant(
            {"depth": depth, "norm": norm, "convolve": dialect == "timm"}, IMAGENET, (dialect,)
        )
        for source, dialect in (("", "torchvision"), ("timm/", "timm"))
        for depth in DEPTHS
        for norm in (False, True)
    },
    dialects={
        "torchvision": Dialect(torchvision_names, ignore=COUNTERS),
        "timm": Dialect(timm_names, ignore=COUNTERS),
    },
)
