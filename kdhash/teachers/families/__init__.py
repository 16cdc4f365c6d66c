"""Families of published networks, one file each."""

from kdhash.teachers.families import resnet, resnet_cifar
from kdhash.teachers.families.family import Dialect, Family, Variant

FAMILIES: dict[str, Family] = {family.arch: family for family in (resnet_cifar.FAMILY, resnet.FAMILY)}

__all__ = ["FAMILIES", "Dialect", "Family", "Variant"]
