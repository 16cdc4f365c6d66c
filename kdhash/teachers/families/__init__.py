"""Families of published networks, one file each."""

from kdhash.teachers.families import (
    clip,
    convnext,
    densenet,
    dinov2,
    efficientnet,
    mobilenet,
    mobilenet_v3,
    resnet,
    resnet_cifar,
    squeezenet,
    swin,
    vgg,
    vit,
)
from kdhash.teachers.families.family import Dialect, Family, Variant

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        resnet_cifar.FAMILY,
        resnet.FAMILY,
        vgg.FAMILY,
        densenet.FAMILY,
        convnext.FAMILY,
        swin.FAMILY,
        mobilenet.V1,
        mobilenet.V2,
        mobilenet_v3.FAMILY,
        efficientnet.FAMILY,
        squeezenet.FAMILY,
        vit.VIT,
        vit.DEIT,
        dinov2.PLAIN,
        dinov2.WITH_REGISTERS,
        clip.CLIP,
        clip.SIGLIP,
        clip.CLIP_TEXT,
    )
}

__all__ = ["FAMILIES", "Dialect", "Family", "Variant"]
