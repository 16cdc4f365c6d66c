"""An index of many codes: how long it takes to write, to open, to answer first; how much memory.

    python benchmarks/open_index.py                     # 10,000,000 codes of 64 bits with an id, a label and a width
    python benchmarks/open_index.py --items 1000000 --folder /tmp/bench

Every step runs in a process of its own, as the commands do; `peak` is the most memory that it held, imports and the pages of
mapped files that were touched included. "open" is `open_index` alone; "first" steps come with the check of contents (sha256)
of the files that they use first, "then" steps without.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BLOCK = 65536


def write(folder: Path, items: int) -> None:
    import pyarrow as pa

    from kdhash.retrieval.items import ItemsWriter

    rng = np.random.default_rng(0)
    began = time.perf_counter()
    with ItemsWriter(folder / "codes", bits=64, model="benchmark") as writer:
        for first in range(0, items, BLOCK):
            n = min(BLOCK, items - first)
            ids = [
                f"photos/2019/{number % 1000:03}/img_{number:08}.jpg" for number in range(first, first + n)
            ]
            labels = pa.array([f"class {label}" for label in rng.integers(0, 100, n)])
            table = pa.table({"id": ids, "label": labels, "width": rng.integers(100, 4000, n)})
            writer.add(rng.integers(0, 256, (n, 8), dtype=np.uint8), table)
    say("write a folder of codes", time.perf_counter() - began)


def build(folder: Path, items: int) -> None:
    from kdhash.retrieval.write_index import build_index

    began = time.perf_counter()
    build_index(folder / "codes", folder / "index")
    say("index build", time.perf_counter() - began)


def add(folder: Path, items: int) -> None:
    import pyarrow as pa

    from kdhash.retrieval.items import write_items
    from kdhash.retrieval.write_index import add_items, delete_items

    write_items(
        folder / "ten",
        np.zeros((10, 8), np.uint8),
        pa.table({"id": [f"new {i}" for i in range(10)]}),
        model="benchmark",
    )
    began = time.perf_counter()
    add_items(folder / "index", folder / "ten")
    say("add ten items", time.perf_counter() - began)
    began = time.perf_counter()
    delete_items(
        folder / "index",
        [f"photos/2019/{number % 1000:03}/img_{number:08}.jpg" for number in range(0, items, items // 1000)],
    )
    say("delete a thousand by id", time.perf_counter() - began)


def merge(folder: Path, items: int) -> None:
    from kdhash.retrieval.write_index import merge_segments

    began = time.perf_counter()
    merge_segments(folder / "index")
    say("merge", time.perf_counter() - began)


def verify(folder: Path, items: int) -> None:
    from kdhash.retrieval.verify_index import verify_index

    began = time.perf_counter()
    found = verify_index(folder / "index")
    if found.problems:
        raise SystemExit(f"verify: {found.problems}")
    say("verify", time.perf_counter() - began)


def use(folder: Path, items: int) -> None:
    from kdhash.retrieval.filters import parse_filter
    from kdhash.retrieval.index import open_index

    times = []
    for _ in range(21):
        began = time.perf_counter()
        index = open_index(folder / "index")
        times.append(time.perf_counter() - began)
    say("open, first time in a process", times[0])
    say("open, median of twenty more", statistics.median(times[1:]))
    rng = np.random.default_rng(1)
    query = rng.integers(0, 256, (1, 8), dtype=np.uint8)
    numbers = rng.choice(items // 2, 10, replace=False) * 2 + 1
    where = parse_filter('label = "class 7" and width > 300')
    for label, step in (
        ("search, k = 10", lambda: index.search(query, k=10)),
        ("rows of ten results", lambda: index.rows(numbers)),
        (
            "number of an id",
            lambda: index.number_of(f"photos/2019/{items // 3 % 1000:03}/img_{items // 3:08}.jpg"),
        ),
        ("filtered search", lambda: index.search(query, k=10, where=where)),
    ):
        for name in ("first", "then"):
            began = time.perf_counter()
            step()
            say(f"{name}: {label}", time.perf_counter() - began)


STEPS = {step.__name__: step for step in (write, build, use, add, merge, verify)}


def say(label: str, seconds: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"step": label, "ms": round(seconds * 1000, 2), "peak MB": round(peak)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument(
        "--folder", type=Path, help="where to write, 2 GB for ten million (default: a temporary folder)"
    )
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        STEPS[args.step](args.folder, args.items)
        return
    folder = Path(tempfile.mkdtemp(prefix="open_index-", dir=args.folder))
    try:
        print(f"{args.items:,} codes of 64 bits")
        for step in STEPS:
            command = [
                sys.executable,
                __file__,
                "--items",
                str(args.items),
                "--folder",
                str(folder),
                "--step",
                step,
            ]
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
            for row in map(json.loads, lines):
                print(f"{row['step']:32}{row['ms']:12,.2f} ms   peak {row['peak MB']:6,} MB", flush=True)
        size = sum(file.stat().st_size for file in (folder / "index").rglob("*") if file.is_file())
        print(f"{size / 1e6:,.0f} MB on disk")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
