"""Exact search of the k nearest 64-bit codes: kdhash, faiss, NumPy and usearch in one run, in alternating rounds.

    python benchmarks/search.py                                       # 60,000, a million, ten million codes: 10 minutes
    python benchmarks/search.py --database 60000 1000000 --threads 1

kdhash is `kdhash.retrieval.nearest.nearest` over a memory-mapped file. faiss is IndexBinaryFlat, each round with its heaps and
with its counting, of which the faster counts. NumPy is bitwise_count, a histogram to find the k-th distance, and a stable sort
of what is left, on one thread. usearch is Index.search(exact=True) over b1 vectors (`pip install usearch`; left out where it is
absent, and above a million codes, because it builds its graph first). All find the same distances, which is checked; kdhash
and NumPy break ties by position, the others as it comes.

Clustered codes lie around 1,000 random centres, each bit flipped with probability 0.12, and so do the queries. One thread is
measured in processor seconds of this process, more threads in seconds that pass; a ratio compares two measurements of one
round. Memory is that of a process of its own: its peak while it answers all queries, beyond what it held before, with the
codes in place.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

# Where the cores are busy, threads of OpenMP that wait by spinning would slow faiss down.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

BITS = 64
# Comparisons of codes in a round, so that it ends: the slower ones get fewer queries.
COMPARISONS = {"kdhash": 10**11, "faiss": 4 * 10**9, "numpy": 2 * 10**7, "usearch": 5 * 10**6}
USEARCH_MOST = 1_000_000
Search = Callable[[np.ndarray], np.ndarray]


def make_codes(kind: str, items: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """(database uint8 [items, 8], queries uint8 [queries, 8]), the same in every run."""
    rng = np.random.default_rng(0)
    if kind == "uniform":
        return rng.integers(0, 256, (items, BITS // 8), np.uint8), rng.integers(
            0, 256, (queries, BITS // 8), np.uint8
        )
    centres = rng.random((1000, BITS)) < 0.5

    def around(count: int) -> np.ndarray:
        codes = np.empty((count, BITS // 8), np.uint8)
        for first in range(0, count, 100_000):
            part = codes[first : first + 100_000]
            flips = rng.random((len(part), BITS), np.float32) < 0.12
            part[:] = np.packbits(centres[rng.integers(0, len(centres), len(part))] ^ flips, axis=1)
        return codes

    return around(items), around(queries)


def kdhash_search(database: np.ndarray, k: int) -> list[Search]:
    from kdhash.retrieval.nearest import nearest

    return [lambda query: nearest(query, [database], k).distances]


def faiss_search(database: np.ndarray, k: int) -> list[Search]:
    import faiss

    index = faiss.IndexBinaryFlat(BITS)
    index.add(database)

    def search(query: np.ndarray, heap: bool) -> np.ndarray:
        index.use_heap = heap
        return index.search(query, k)[0]

    return [lambda query: search(query, True), lambda query: search(query, False)]


def numpy_search(database: np.ndarray, k: int) -> list[Search]:
    words = database.view(np.uint64).ravel()

    def search(query: np.ndarray) -> np.ndarray:
        found = np.empty((len(query), min(k, len(words))), np.uint8)
        for row, word in zip(found, query.view(np.uint64).ravel(), strict=True):
            distances = np.bitwise_count(words ^ word)
            farthest = np.searchsorted(np.bincount(distances).cumsum(), len(row))
            near = np.flatnonzero(distances <= farthest)
            row[:] = distances[near[np.argsort(distances[near], kind="stable")[: len(row)]]]
        return found

    return [search]


def usearch_search(database: np.ndarray, k: int) -> list[Search]:
    from usearch.index import Index

    # the graph is not used: let it be built quickly
    index = Index(ndim=BITS, metric="hamming", dtype="b1", connectivity=4, expansion_add=4)
    index.add(np.arange(len(database)), database)
    return [lambda query: np.asarray(index.search(query, k, exact=True, threads=THREADS[0]).distances)]


def set_threads(threads: int) -> None:
    import faiss
    import numba

    numba.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    THREADS[:] = [threads]


THREADS = [1]  # of usearch, which takes them with every search
METHODS = {
    "kdhash": kdhash_search,
    "faiss": faiss_search,
    "numpy": numpy_search,
    "usearch": usearch_search,
}


def usable(items: int) -> list[str]:
    """The methods that can be measured here at this size."""
    try:
        import usearch  # noqa: F401
    except ImportError:
        return ["kdhash", "faiss", "numpy"]
    return ["kdhash", "faiss", "numpy"] + ["usearch"] * (items <= USEARCH_MOST)


def queries_of(name: str, items: int, queries: int) -> int:
    return max(1, min(queries, COMPARISONS[name] // items))


def rate(searches: list[Search], query: np.ndarray, threads: int) -> float:
    """Queries a second of the fastest of the searches."""
    clock = time.process_time if threads == 1 else time.perf_counter
    taken = []
    for search in searches:
        start = clock()
        search(query)
        taken.append(clock() - start)
    return len(query) / min(taken)


def status(field: str) -> float:
    """A field of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 2**10


def print_memory(name: str, file: str, queries: str, k: int, threads: int) -> None:
    """The work of a process of its own: its peak beyond what it held with the codes in place."""
    set_threads(threads)
    database = np.load(file, mmap_mode="r" if name == "kdhash" else None)
    query = np.load(queries)
    METHODS[name](database[:1000].copy(), k)[0](query[:1])  # compiles or loads what it needs
    searches = METHODS[name](database, k)
    if name == "kdhash":
        int(database.sum())  # the file is now in memory
    else:
        del database
    with ThreadPoolExecutor(threads) as pool:  # the stacks of threads are there as well
        list(pool.map(time.sleep, [0.01] * threads))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    searches[-1](query[: queries_of(name, len(query) * 100, len(query))])
    print(f"{status('VmHWM') - before:.1f}")


def memory(items: int, folder: Path, k: int, threads: int) -> str:
    values = []
    for name in usable(items):
        arguments = ["--memory-of", name, str(folder / "codes.npy"), str(folder / "queries.npy")]
        command = [sys.executable, __file__, *arguments, "--k", str(k), "--threads", str(threads)]
        values.append(f"{name} {subprocess.check_output(command, text=True).strip()}")
    return f"{items:,} codes, {items * BITS / 8 / 2**20:.1f} MiB: {', '.join(values)} MiB"


def measure(args: argparse.Namespace, kind: str, items: int, folder: Path) -> tuple[list[str], list[str]]:
    """Rows of the table of rates and of that of single queries."""
    database, query = make_codes(kind, items, args.queries)
    np.save(folder / "codes.npy", database)
    np.save(folder / "queries.npy", query)
    mapped = np.load(folder / "codes.npy", mmap_mode="r")
    made = {name: METHODS[name](mapped if name == "kdhash" else database, args.k) for name in usable(items)}
    rows, single = [], []
    for threads in args.threads:
        set_threads(threads)
        present = [name for name in made if name != "numpy" or threads == 1]
        few = {name: query[: queries_of(name, items, len(query))] for name in present}
        check = {name: made[name][-1](query[:3]) for name in present}
        for name, distances in check.items():
            if not np.array_equal(distances, check["kdhash"]):
                raise SystemExit(f"{name} finds other distances than kdhash")
        rounds = [
            {name: rate(made[name], few[name], threads) for name in present} for _ in range(args.rounds)
        ]
        ratios = sorted(one["kdhash"] / one["faiss"] for one in rounds)
        cells = {name: f"{statistics.median(one[name] for one in rounds):,.0f}" for name in present}
        rows.append(
            f"| {items:,} | {kind} | {threads} | {cells['kdhash']} | {cells['faiss']} | "
            f"**{statistics.median(ratios):.1f}** ({ratios[0]:.1f} to {ratios[-1]:.1f}) | "
            f"{cells.get('numpy', '–')} | {cells.get('usearch', '–')} |"
        )
        times = [
            [1e3 / rate(made[name], query[i : i + 1], 2) for i in range(20)] for name in ("kdhash", "faiss")
        ]
        ours, theirs = (statistics.median(row) for row in times)
        single.append(f"| {items:,} | {kind} | {threads} | {ours:.2f} | {theirs:.2f} |")
        print(rows[-1], file=sys.stderr)
    return rows, single


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", type=int, nargs="+", default=[60_000, 1_000_000, 10_000_000])
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print_memory(*args.memory_of, args.k, args.threads[0])
        return
    rows: list[str] = []
    single: list[str] = []
    sizes: list[str] = []
    for items in args.database:
        for kind in ("uniform", "clustered"):
            with tempfile.TemporaryDirectory() as folder:
                more_rows, more_single = measure(args, kind, items, Path(folder))
                rows, single = rows + more_rows, single + more_single
                if kind == "clustered":
                    sizes.append(memory(items, Path(folder), args.k, max(args.threads)))
    slower = {n: [queries_of(n, items, args.queries) for items in args.database] for n in COMPARISONS}
    print(f"k = {args.k}, {BITS} bits, median of {args.rounds} rounds; queries a round: {slower}\n")
    print("| codes | kind | threads | kdhash q/s | faiss q/s | ratio (range) | NumPy q/s | usearch q/s |")
    print("|---|---|---|---|---|---|---|---|", *rows, sep="\n")
    print(
        "\nOne query at a time, milliseconds:\n\n| codes | kind | threads | kdhash | faiss |\n|---|---|---|---|---|"
    )
    print(*single, sep="\n")
    print(
        f"\nMemory of {args.queries:,} queries beyond the codes, {max(args.threads)} threads:",
        *sizes,
        sep="\n    ",
    )


if __name__ == "__main__":
    main()
