"""How long pictures take to decode, by format, size and threads: why small ones are decoded by one, or by several processes.

    python benchmarks/decode.py
    python benchmarks/decode.py --cifar10 data       # also all 60,000 records of a data set, as a run first reads it

`us`: microseconds a picture, the best of three rounds in which the numbers of threads take turns; of a data set each of two, with
all that reading a record costs. Pictures are smooth noise: PNG and lossless WebP, and JPEG of quality 90. 'inline' is the calling
thread alone.
"""

import argparse
import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from measure import Record, device_options, set_devices
from PIL import Image

FORMATS = {"WEBP": {"lossless": True}, "PNG": {}, "JPEG": {"quality": 90}}
DIFFERENT, PART = 16, 64


def encoded(size: int, kind: str) -> list[bytes]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(DIFFERENT):
        coarse = Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), np.uint8))
        file = io.BytesIO()
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(file, kind, **FORMATS[kind])
        found.append(file.getvalue())
    return found


def seconds(pictures: list[bytes], threads: int) -> float:
    from kdhash.data.pictures import decode_picture

    def part(start: int) -> None:
        for picture in pictures[start : start + PART]:
            decode_picture(picture)

    starts = range(0, len(pictures), PART)
    began = time.perf_counter()
    if threads:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, starts))
    else:
        for start in starts:
            part(start)
    return time.perf_counter() - began


def whole(record: Record, data_dir: Path) -> None:
    """All of CIFAR-10 twice in turns: by processes, as a run reads it, by one thread, by the eight that larger pictures get."""
    from kdhash.data import sources

    processes, small = sources.decoding_processes(), sources.THREADED_PIXELS
    ways = {
        f"{processes} processes": (processes, small),
        "inline": (0, small),
        sources.DECODE_THREADS: (0, 0),
    }
    for _ in range(2):
        for threads, (count, pixels) in ways.items():
            sources.decoding_processes = lambda count=count: count
            sources.THREADED_PIXELS = pixels
            began = time.perf_counter()
            rows = len(sources.load_dataset("cifar10", data_dir))
            took = time.perf_counter() - began
            record.add(
                format="cifar10, read and decoded", size=32, threads=threads, us=1e6 * took / rows, s=took
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128, 256], help="pixels a side")
    parser.add_argument("--threads-tried", type=int, nargs="+", default=[0, 2, 8], help="0: inline")
    parser.add_argument("--cifar10", type=Path, metavar="DATA_DIR", help="folder that holds cifar10/")
    device_options(parser)
    args = parser.parse_args()
    set_devices(args)
    record = Record(args.json)
    for kind in FORMATS:
        for size in args.sizes:
            pictures = encoded(size, kind) * max(16, 128_000 // size**2 * 4)
            rounds = [[seconds(pictures, threads) for threads in args.threads_tried] for _ in range(3)]
            for threads, best in zip(args.threads_tried, np.min(rounds, axis=0), strict=True):
                us = float(1e6 * best / len(pictures))
                record.add(format=kind, size=size, threads=threads or "inline", us=us)
    if args.cifar10:
        whole(record, args.cifar10)


if __name__ == "__main__":
    main()
