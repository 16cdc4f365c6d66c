"""CIFAR ResNets trained by others: names of the akamaster/pytorch_resnet_cifar10 state dicts (BSD-2-Clause)."""

from kdhash.teachers.convert import NameMap


def name_map(depth: int) -> NameMap:
    """Flax variable -> (PyTorch name, transform) of a CIFAR ResNet of `depth` layers with a classifier."""
    names: dict[str, tuple[str, str]] = {
        "params/Conv_0/kernel": ("module.conv1.weight", "conv"),
        "params/classifier/kernel": ("module.linear.weight", "dense"),
        "params/classifier/bias": ("module.linear.bias", "keep"),
        **_norm("BatchNorm_0", "module.bn1"),
    }
    for stage in range(3):
        for block in range((depth - 2) // 6):
            target, source = f"stage{stage}_block{block}", f"module.layer{stage + 1}.{block}"
            for i in range(2):
                names[f"params/{target}/Conv_{i}/kernel"] = (f"{source}.conv{i + 1}.weight", "conv")
                names |= _norm(f"{target}/BatchNorm_{i}", f"{source}.bn{i + 1}")
    return names


def _norm(target: str, source: str) -> dict[str, tuple[str, str]]:
    return {
        f"params/{target}/scale": (f"{source}.weight", "keep"),
        f"params/{target}/bias": (f"{source}.bias", "keep"),
        f"batch_stats/{target}/mean": (f"{source}.running_mean", "keep"),
        f"batch_stats/{target}/var": (f"{source}.running_var", "keep"),
    }
