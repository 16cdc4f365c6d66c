"""The networks that a config can name."""

from typing import Any

import flax.linen as nn

from kdhash.models.clip_text import ClipText
from kdhash.models.convnext import ConvNeXt
from kdhash.models.densenet import DenseNet
from kdhash.models.efficientnet import EfficientNet
from kdhash.models.mobilenet import MobileNetV1, MobileNetV2, MobileNetV3
from kdhash.models.resnet import ResNet
from kdhash.models.resnet_cifar import CifarResNet
from kdhash.models.small import ConvNet, Mlp
from kdhash.models.squeezenet import SqueezeNet
from kdhash.models.swin import Swin
from kdhash.models.vgg import Vgg
from kdhash.models.vit import VisionTransformer

BACKBONES: dict[str, type[nn.Module]] = {
    "resnet_cifar": CifarResNet,
    "resnet": ResNet,
    "vgg": Vgg,
    "densenet": DenseNet,
    "convnext": ConvNeXt,
    "swin": Swin,
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3": MobileNetV3,
    "efficientnet": EfficientNet,
    "squeezenet": SqueezeNet,
    "vit": VisionTransformer,
    "clip_text": ClipText,
    "convnet": ConvNet,
    "mlp": Mlp,
}

# Those of `remat`, whose blocks can be computed anew in the backward pass (see `blocks.run_block`).
IN_BLOCKS = tuple(arch for arch, network in BACKBONES.items() if "remat" in network.__dataclass_fields__)


def make_backbone(
    arch: str, *, classes: int | None = None, axis_name: str | None = None, remat: bool = False, **sizes: Any
) -> nn.Module:
    """The Flax module of `arch` with its sizes (depth and width, or widths).

    It maps float pictures [batch, h, w, 3] to {'features', ...}. `remat` changes nothing where the network is not one of
    IN_BLOCKS. Raises ValueError for an unknown name or size.
    """
    if arch not in BACKBONES:
        raise ValueError(f"arch {arch!r} is unknown; known are {', '.join(sorted(BACKBONES))}")
    if arch in IN_BLOCKS:
        sizes["remat"] = remat
    try:
        return BACKBONES[arch](classes=classes, axis_name=axis_name, **sizes)
    except TypeError as error:
        raise ValueError(f"arch {arch!r}: {error}") from None
