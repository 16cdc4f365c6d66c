"""The base hashers that a config can name: each learns without labels from two views of every item."""

from collections.abc import Callable
from typing import NamedTuple

from kdhash.methods.bihalf import bihalf
from kdhash.methods.cibhash import cibhash
from kdhash.methods.greedyhash import greedyhash
from kdhash.methods.interface import Method


class Base(NamedTuple):
    """make(model, **options) -> Method, and the names of its options in config.hasher."""

    make: Callable[..., Method]
    options: tuple[str, ...]


BASES: dict[str, Base] = {
    "cibhash": Base(cibhash, ("temperature", "kl_weight")),
    "greedyhash": Base(greedyhash, ("quantization",)),
    "bihalf": Base(bihalf, ("gamma",)),
}
