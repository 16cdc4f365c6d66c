"""Training data that lie on the devices: placed there once, so that a step is handed the numbers of its rows alone."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from kdhash.methods.interface import Batch
from kdhash.training.mapping import ROW, replicate

MIB = 1 << 20


def fits(fetch: Callable[[np.ndarray], Batch], rows: np.ndarray, mesh: Mesh, mapping: str, mib: int) -> bool:
    """Whether `fetch(rows)` is to lie on every device of `mesh`: it has at most `mib` MiB (by its first row; 0: never).

    Not under 'pmap', which is handed arrays of the host. Nor on several devices of one CPU, whose memory is the host's own:
    copies for each of them would gain nothing.
    """
    if (
        mapping != "jit"
        or not mib
        or (mesh.devices.flat[0].platform == "cpu" and len(mesh.local_devices) > 1)
    ):
        return False
    return sum(leaf.nbytes for leaf in jax.tree.leaves(fetch(rows[:1]))) * len(rows) <= mib * MIB


def place(fetch: Callable[[np.ndarray], Batch], rows: np.ndarray, mesh: Mesh) -> Batch:
    """`fetch(rows)` on every device of `mesh`; in a step's batch `ROW` [batch] counts `rows` from 0."""
    return replicate(fetch(rows), mesh)


def numbers(rows: np.ndarray) -> Batch:
    """What a step is handed of data that lie on the devices."""
    return {ROW: rows.astype(np.int32)}
