"""Packed codes, exact Hamming search and retrieval metrics."""

from kdhash.retrieval.codes import pack_codes, unpack_codes
from kdhash.retrieval.counts import DistanceCounts, count_by_distance
from kdhash.retrieval.curves import (
    RadiusCurve,
    precision_at_many_k,
    precision_within_radius,
    radius_curve,
    radius_curve_of,
)
from kdhash.retrieval.expected import expected_average_precision
from kdhash.retrieval.features import float_map
from kdhash.retrieval.hamming import hamming_distances
from kdhash.retrieval.instances import instance_recall
from kdhash.retrieval.metrics import (
    average_precision,
    evaluate,
    mean_average_precision,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)
from kdhash.retrieval.nearest import search

__all__ = [
    "DistanceCounts",
    "RadiusCurve",
    "average_precision",
    "count_by_distance",
    "evaluate",
    "expected_average_precision",
    "float_map",
    "hamming_distances",
    "instance_recall",
    "mean_average_precision",
    "ndcg_at_k",
    "pack_codes",
    "precision_at_k",
    "precision_at_many_k",
    "precision_within_radius",
    "radius_curve",
    "radius_curve_of",
    "recall_at_k",
    "search",
    "unpack_codes",
]
