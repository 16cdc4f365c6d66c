"""Published SqueezeNets."""

from kdhash.models.squeezenet import LAYOUTS
from kdhash.teachers.convert import NameMap
from kdhash.teachers.families.family import Dialect, Family, Variant, conv_names
from kdhash.teachers.preprocessing import IMAGENET


def torchvision_names(*, version: str = "1_0") -> NameMap:
    """torchvision's squeezenet1_0 and squeezenet1_1."""
    names = {**conv_names("stem", "features.0"), **conv_names("classifier", "classifier.1")}
    for i, fire in enumerate(LAYOUTS[version][1]):
        if fire is not None:
            for part in ("squeeze", "expand1x1", "expand3x3"):
                # features.1 is the stem's ReLU
                names |= conv_names(f"fire{i}_{part}", f"features.{i + 2}.{part}")
    return names


FAMILY = Family(
    arch="squeezenet",
    reference="Iandola et al. 2016, arXiv 1602.07360",
    variants={f"squeezenet{version}": Variant({"version": version}, IMAGENET) for version in ("1_0", "1_1")},
    dialects={"torchvision": Dialect(torchvision_names)},
)
