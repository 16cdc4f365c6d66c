"""What a search answers, whichever engine gave it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt16

NOTHING = 65535


class Found(NamedTuple):
    """The nearest items of each query, by distance, then by number; padded where a query found fewer than others."""

    distances: UInt16[np.ndarray, "queries width"]
    """Hamming distance in bits; 65535 where there is nothing"""
    numbers: Int64[np.ndarray, "queries width"]
    """the items' numbers; -1 where there is nothing"""
    counts: Int64[np.ndarray, " queries"]
    """how many items each query found"""
