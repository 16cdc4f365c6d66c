"""Two half-Gaussians around the mode of many values that are never in memory together: one pass over blocks of them.

The fit of SSDH as in `kdhash.losses.unsupervised`, in float64 NumPy.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from kdhash.losses.unsupervised import BIN_WIDTH, HalfGaussians

# Values and how often each of them counts.
Weighted = tuple[Float[np.ndarray, "*shape"], int]


class StreamedFit(NamedTuple):
    """gaussians: mode and standard deviations.  histogram: values strictly within each bin.  left_count, right_count:
    values up to the mode, and beyond it.  lowest, highest: of all values."""

    gaussians: HalfGaussians
    histogram: Int[np.ndarray, " bins"]
    left_count: int
    right_count: int
    lowest: float
    highest: float


def fit_streamed(blocks: Iterable[Weighted], *, first_edge: float, bins: int) -> StreamedFit:
    """The mode is the left edge of the first fullest bin of width .01; a side's variance is the mean of (v - mode)^2 there,
    which is the normal fit to the side and its mirror image. A side without values has standard deviation 0.

    Values outside of the bins count for their side. Numbers, sums and sums of squares of each bin are enough: the mode is an
    edge. Source: SSDH (Yang et al., IJCAI 2018), in the form of its program. Raises ValueError without values.
    """
    edges = first_edge + BIN_WIDTH * np.arange(bins + 1)
    origin = edges[np.maximum(np.arange(bins + 2) - 1, 0)]
    counts, on_edge = np.zeros(bins + 2, np.int64), np.zeros(bins + 2, np.int64)
    sums, squares = np.zeros(bins + 2), np.zeros(bins + 2)
    lowest, highest = np.inf, -np.inf
    for values, weight in blocks:
        flat = values.reshape(-1)
        if not flat.size:
            continue
        place = np.searchsorted(edges, flat, side="left")  # place p: above edge p - 1, up to edge p
        offset = flat - origin[place]
        exact = place[flat == edges[np.minimum(place, bins)]]
        counts += weight * np.bincount(place, minlength=bins + 2)
        on_edge += weight * np.bincount(exact, minlength=bins + 2)
        sums += weight * np.bincount(place, offset, minlength=bins + 2)
        squares += weight * np.bincount(place, offset**2, minlength=bins + 2)
        lowest, highest = min(lowest, float(flat.min())), max(highest, float(flat.max()))
    if not counts.any():
        raise ValueError("there are no values to fit; give at least two items")
    histogram = (counts - on_edge)[1:-1]
    fullest = int(np.argmax(histogram))
    mode = edges[fullest]
    about_mode = squares + 2 * (origin - mode) * sums + counts * (origin - mode) ** 2
    sides = slice(None, fullest + 1), slice(fullest + 1, None)
    left, right = (int(counts[side].sum()) for side in sides)
    stds = [
        np.sqrt(max(about_mode[side].sum(), 0) / max(count, 1))
        for side, count in zip(sides, (left, right), strict=True)
    ]
    return StreamedFit(HalfGaussians(mode, *stds), histogram, left, right, lowest, highest)


def off_diagonal(block: Callable[[slice, slice], np.ndarray], count: int, chunk: int) -> Iterator[Weighted]:
    """The entries of a symmetric matrix, less its diagonal, from `block(rows, columns)` of its upper half.

    Raises ValueError for a chunk below 1.
    """
    for rows, columns in upper_blocks(count, chunk):
        values = block(rows, columns)
        if rows == columns:
            yield values[~np.eye(len(values), dtype=bool)], 1
        else:
            yield values, 2


def upper_blocks(count: int, chunk: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the square blocks that cover the upper half of a matrix."""
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; give the rows of a block, at least 1")
    parts = [slice(start, min(start + chunk, count)) for start in range(0, count, chunk)]
    for index, rows in enumerate(parts):
        for columns in parts[index:]:
            yield rows, columns


def unit_rows64(x: np.ndarray) -> Float[np.ndarray, "items width"]:
    """Rows of length 1 in float64; a zero row stays zero."""
    x = np.asarray(x, np.float64)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norms > 0, norms, 1)
