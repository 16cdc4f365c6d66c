"""Exact expected mAP@all and the precision-recall curve, against the loop that hashing papers copy.

    python benchmarks/metrics.py                # 10,000 queries x 50,000 database, 64 bits, 10 classes
    python benchmarks/metrics.py --threads 1
    KDHASH_HAMMING=numpy python benchmarks/metrics.py

The loop takes one query at a time: labels by a matrix product, distances by a product of -1/+1 codes, an
argsort, and the mean of hit number / rank over the hits. It runs on a sample of queries and is extrapolated
to all of them. Both sides start from codes in their own form (packed bytes, float32 -1/+1) and use the same
number of threads; rounds alternate, so that a busy machine slows both. The loop gives mAP only, kdhash the
curve as well. Where other work keeps the cores busy, threaded matrix products of this size mostly wait for
each other: then only the one-thread row means something.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from kdhash.retrieval import count_by_distance, expected_average_precision, radius_curve_of
from kdhash.retrieval.hamming import kernels


class Problem(NamedTuple):
    query_codes: np.ndarray
    database_codes: np.ndarray
    query_labels: np.ndarray
    database_labels: np.ndarray
    query_packed: np.ndarray
    database_packed: np.ndarray
    classes: int


def make_problem(queries: int, items: int, bits: int, classes: int) -> Problem:
    """Clustered codes: one random code a class, each bit of an item flipped with probability 0.2."""
    rng = np.random.default_rng(0)
    centres = rng.random((classes, bits)) < 0.5
    query_labels, database_labels = rng.integers(0, classes, queries), rng.integers(0, classes, items)
    query = centres[query_labels] ^ (rng.random((queries, bits)) < 0.2)
    database = centres[database_labels] ^ (rng.random((items, bits)) < 0.2)
    return Problem(
        query_codes=query.astype(np.float32) * 2 - 1,
        database_codes=database.astype(np.float32) * 2 - 1,
        query_labels=query_labels,
        database_labels=database_labels,
        query_packed=np.packbits(query, axis=1),
        database_packed=np.packbits(database, axis=1),
        classes=classes,
    )


def copied_loop(problem: Problem, queries: int) -> float:
    """mAP@all of the first queries, as the public programs compute it."""
    one_hot = np.eye(problem.classes, dtype=np.float32)
    query_labels, database_labels = one_hot[problem.query_labels], one_hot[problem.database_labels]
    bits = problem.query_codes.shape[1]
    total = 0.0
    for query in range(queries):
        relevant = (query_labels[query] @ database_labels.T > 0).astype(np.float32)
        distance = 0.5 * (bits - problem.query_codes[query] @ problem.database_codes.T)
        relevant = relevant[np.argsort(distance)]
        hits = int(relevant.sum())
        if hits:
            ranks = np.flatnonzero(relevant == 1) + 1.0
            total += float(np.mean(np.linspace(1, hits, hits) / ranks))
    return total / queries


def with_kdhash(problem: Problem) -> tuple[float, np.ndarray]:
    """Expected mAP@all and the macro precision by radius, of all queries."""
    counts = count_by_distance(
        problem.query_packed, problem.database_packed, problem.query_labels, problem.database_labels
    )
    items = len(problem.database_packed)
    return float(expected_average_precision(counts, items).mean()), radius_curve_of(counts).precision_macro


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_mib() -> float:
    """Greatest resident memory of this process so far (Linux counts KiB, macOS bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def set_threads(threads: int) -> None:
    if kernels() is not None:
        import numba

        numba.set_num_threads(threads)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--database", type=int, default=50_000)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--sample", type=int, default=200, help="queries of the loop in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()

    problem = make_problem(args.queries, args.database, args.bits, args.classes)
    sample = min(args.sample, args.queries)
    same = problem._replace(
        query_packed=problem.query_packed[:sample], query_labels=problem.query_labels[:sample]
    )
    path = "NumPy" if kernels() is None else "Numba"
    print(
        f"{args.queries:,} queries x {args.database:,} database, {args.bits} bits, {args.classes} classes, "
        f"kdhash with {path}"
    )
    print(f"compile or load the kernels: {seconds(lambda: with_kdhash(same)):.2f} s (not counted below)")
    before = peak_mib()
    set_threads(args.threads[0])
    value, _ = with_kdhash(problem)
    print(f"peak memory: {peak_mib():.0f} MiB in all, {peak_mib() - before:.0f} MiB of it by kdhash")
    print(
        f"mAP@all {value:.6f}; on the first {sample} queries {with_kdhash(same)[0]:.6f} (expected ties), "
        f"by the loop {copied_loop(problem, sample):.6f} (ties as its argsort leaves them)"
    )
    for threads in args.threads:
        set_threads(threads)
        with threadpool_limits(threads):
            pairs = [
                (
                    seconds(lambda: copied_loop(problem, sample)) * args.queries / sample,
                    seconds(lambda: with_kdhash(problem)),
                )
                for _ in range(args.rounds)
            ]
        loop, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(slow / quick for slow, quick in pairs)
        print(
            f"{threads} thread(s): loop {loop:.2f} s (extrapolated from {sample} queries), "
            f"kdhash {ours:.3f} s, "
            f"ratio {statistics.median(ratios):.1f} (median of {args.rounds} rounds, "
            f"{ratios[0]:.1f} to {ratios[-1]:.1f})"
        )


if __name__ == "__main__":
    main()
