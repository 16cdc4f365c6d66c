"""Clusters of a teacher's codes: k-means, and how many there should be. Plain NumPy and scikit-learn, no labels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

SILHOUETTE_ITEMS = 2000  # looked at; the score compares all pairs


class Clusters(NamedTuple):
    """centers: [clusters, bits], float32.  members: the cluster of each item.  inertia: sum of squared distances to centres."""

    centers: Float[np.ndarray, "clusters bits"]
    members: Int[np.ndarray, " items"]
    inertia: float


class Choice(NamedTuple):
    """Of each count of clusters tried its inertia and silhouette (-1 to 1), and the counts that both rules choose."""

    counts: tuple[int, ...]
    inertia: tuple[float, ...]
    silhouette: tuple[float, ...]
    elbow: int
    best_silhouette: int


def cluster_codes(
    codes: Float[np.ndarray, "items bits"], count: int, *, seed: int, starts: int = 30
) -> Clusters:
    """k-means++ with several starts, the best kept. Source: Arthur and Vassilvitskii 2007; 30 starts as in BRCD.

    Raises ValueError for more clusters than different codes.
    """
    different = len(np.unique(codes > 0, axis=0))
    if not 0 < count <= different:
        raise ValueError(f"{count} clusters of {different} different codes; choose 1 to {different}")
    from sklearn.cluster import KMeans  # whose import takes seconds, of every start

    found = KMeans(count, init="k-means++", n_init=starts, random_state=seed).fit(codes)
    return Clusters(found.cluster_centers_.astype(np.float32), found.labels_, float(found.inertia_))


def choose_count(
    codes: Float[np.ndarray, "items bits"], counts: Sequence[int], *, seed: int, starts: int = 5
) -> Choice:
    """Tries every count. The elbow is the count whose inertia lies farthest below the line from the first to the last (Satopaa
    et al. 2011); the silhouette (Rousseeuw 1987) is that of at most 2,000 items. Raises ValueError for fewer than three
    counts, or any that is not above 1 and rising.
    """
    if len(counts) < 3 or min(counts) < 2 or list(counts) != sorted(set(counts)):
        raise ValueError(f"counts of clusters are {tuple(counts)}; give at least three, rising, from 2 on")
    from sklearn.metrics import silhouette_score

    some = np.random.default_rng(seed).permutation(len(codes))[:SILHOUETTE_ITEMS]
    inertia, silhouette = [], []
    for count in counts:
        found = cluster_codes(codes, count, seed=seed, starts=starts)
        inertia.append(found.inertia)
        silhouette.append(float(silhouette_score(codes[some], found.members[some])))
    x = (np.asarray(counts) - counts[0]) / (counts[-1] - counts[0])
    y = (np.asarray(inertia) - inertia[-1]) / max(inertia[0] - inertia[-1], 1e-12)
    elbow = counts[int(np.argmax(1 - x - y))]
    best = counts[int(np.argmax(silhouette))]
    return Choice(tuple(counts), tuple(inertia), tuple(silhouette), elbow, best)
