"""CIFAR ResNets trained by others: github.com/akamaster/pytorch_resnet_cifar10 (BSD-2-Clause)."""

from kdhash.teachers.convert import NameMap
from kdhash.teachers.families.family import Dialect, Family, Variant, dense_names, norm_names
from kdhash.teachers.preprocessing import IMAGENET


def names(*, depth: int) -> NameMap:
    """Flax variable -> (PyTorch name, transform) of a CIFAR ResNet of `depth` layers with a classifier."""
    table: dict[str, tuple[str, str]] = {
        "params/Conv_0/kernel": ("conv1.weight", "conv"),
        **norm_names("BatchNorm_0", "bn1"),
        **dense_names("classifier", "linear"),
    }
    for stage in range(3):
        for block in range((depth - 2) // 6):
            target, source = f"stage{stage}_block{block}", f"layer{stage + 1}.{block}"
            for i in range(2):
                table[f"params/{target}/Conv_{i}/kernel"] = (f"{source}.conv{i + 1}.weight", "conv")
                table |= norm_names(f"{target}/BatchNorm_{i}", f"{source}.bn{i + 1}")
    return table


FAMILY = Family(
    arch="resnet_cifar",
    reference="He et al. 2016, arXiv 1512.03385, section 4.2",
    variants={
        f"resnet{depth}_cifar": Variant({"depth": depth}, IMAGENET._replace(size=32, resize=None))
        for depth in (20, 32, 44, 56, 110)
    },
    # Counters of training steps are no weights: newer PyTorch writes them, older does not.
    dialects={"akamaster": Dialect(names, ignore=("num_batches_tracked",))},
)
