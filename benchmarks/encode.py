"""Pictures a second from JPEG files to a folder of codes, where the time goes, and the same student in ONNX Runtime.

    python benchmarks/encode.py --model models/student                       # 1,000 pictures that it makes, 640 x 480
    python benchmarks/encode.py --model models/student --pictures photos     # your own
    python benchmarks/encode.py --model models/student --side 2048 --count 200

'kdhash encode' is the whole command without starting Python and loading the model: listing, reading, sha256, decoding,
resizing, thumbnails, the network, codes and metadata written, in blocks that a kill does not lose. The loop is what one
would write by hand: file by file Pillow, the same fit, and image.onnx by batches; no ids, metadata, thumbnails or
resuming. Rounds alternate, so that a busy machine slows all alike; ratios are medians of the rounds' ratios. Processor
time is that of all threads, and says more than the clock where other work keeps the processors busy. Decoding, resizing
and thumbnails are processor time too, and overlap with the network.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdhash.data.stream import picture_names
from kdhash.export.encode import encode
from kdhash.export.encode_rows import Settings
from kdhash.export.encode_sources import open_source
from kdhash.export.model import load_model

STAGES = ("read", "decode", "resize", "thumbnail", "device", "write")


def make_pictures(folder: Path, count: int, side: int) -> None:
    """JPEG files of `side` x 3/4 `side` pixels, quality 90: smooth colours, edges and some noise, as photographs have."""
    rng = np.random.default_rng(0)
    size = (side, side * 3 // 4)
    for number in range(count):
        coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.int16)
        rows, columns = np.sort(rng.integers(0, size[1], 2)), np.sort(rng.integers(0, size[0], 2))
        smooth = smooth + rng.normal(0, 6, smooth.shape).astype(np.int16)
        smooth[rows[0] : rows[1], columns[0] : columns[1]] += 60
        Image.fromarray(np.clip(smooth, 0, 255).astype(np.uint8)).save(
            folder / f"{number:05}.jpg", quality=90
        )


def by_hand(model: Any, folder: Path, batch_size: int) -> np.ndarray:
    """File by file, then batch by batch."""
    codes, batch = [], []
    for name in picture_names(folder):
        batch.append(model.fit(folder / name))
        if len(batch) == batch_size:
            codes.append(model.encode_pictures(np.stack(batch)))
            batch = []
    if batch:
        codes.append(model.encode_pictures(np.stack(batch)))
    return np.concatenate(codes)


def seconds(function: Any, *arguments: Any) -> tuple[float, float, Any]:
    """Seconds on the clock, seconds of processors, and the result."""
    start, busy = time.perf_counter(), time.process_time()
    result = function(*arguments)
    return time.perf_counter() - start, time.process_time() - busy, result


def middle(values: list[float]) -> float:
    return statistics.median(values)


def spread(values: list[float]) -> str:
    digits = 0 if min(values) >= 100 else 2
    return f"{middle(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a model folder, with image.onnx")
    parser.add_argument("--pictures", type=Path, help="a folder of pictures (default: made here)")
    parser.add_argument("--count", type=int, default=1000, help="pictures that are made")
    parser.add_argument(
        "--side", type=int, default=640, help="their width in pixels; the height is 3/4 of it"
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--thumbnails", type=int, default=128)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    models = {"jax": load_model(args.model, batch_size=args.batch_size)}
    try:
        models["onnx"] = load_model(args.model, engine="onnx", batch_size=args.batch_size)
    except (ImportError, ValueError) as error:
        print(f"without ONNX Runtime: {error}")
    with tempfile.TemporaryDirectory(prefix="kdhash-encode-") as place:
        root = Path(place)
        folder = args.pictures or root / "pictures"
        if not args.pictures:
            folder.mkdir()
            make_pictures(folder, args.count, args.side)
        names = list(picture_names(folder))
        megabytes = sum((folder / name).stat().st_size for name in names) / 1e6
        print(
            f"{len(names):,} pictures, {megabytes:.0f} MB; {models['jax'].size} x {models['jax'].size} pixels for the network"
        )
        settings = Settings(args.thumbnails, args.batch_size, workers=args.workers)

        def command(model: Any) -> Any:
            shutil.rmtree(root / "codes", ignore_errors=True)
            return encode(model, open_source(folder), root / "codes", settings)

        sample = np.stack([models["jax"].fit(folder / name) for name in names[: args.batch_size]])
        sample = np.concatenate([sample] * -(-args.batch_size // len(sample)))[: args.batch_size]
        for model in models.values():  # compile
            model.encode_pictures(sample)
        whole: dict[str, list[float]] = {engine: [] for engine in models}
        busy: dict[str, list[float]] = {engine: [] for engine in [*models, "loop"]}
        network: dict[str, list[float]] = {engine: [] for engine in models}
        loop: list[float] = []
        stages: list[dict[str, float]] = []
        for _ in range(args.rounds):
            for engine, model in models.items():
                spent, processors, report = seconds(command, model)
                whole[engine].append(len(names) / spent)
                busy[engine].append(processors / len(names) * 1e3)
                if engine == "jax":
                    stages.append(report.seconds)
                network[engine].append(
                    len(sample) / min(seconds(model.encode_pictures, sample)[0] for _ in range(3))
                )
            if "onnx" in models:
                spent, processors, _ = seconds(by_hand, models["onnx"], folder, args.batch_size)
                loop.append(len(names) / spent)
                busy["loop"].append(processors / len(names) * 1e3)

        print("\n| | pictures/s, median (least to most) | processor ms a picture |\n|---|---:|---:|")
        for engine in models:
            print(f"| kdhash encode, {engine} | {spread(whole[engine])} | {spread(busy[engine])} |")
        if loop:
            print(f"| loop by hand, Pillow and ONNX Runtime | {spread(loop)} | {spread(busy['loop'])} |")
        for engine in models:
            print(f"| network alone, {engine}, batches of {args.batch_size} | {spread(network[engine])} | |")
        print("\n| where the time goes (jax) | ms a picture |\n|---|---:|")
        for stage in STAGES:
            print(f"| {stage} | {middle([one.get(stage, 0.0) for one in stages]) / len(names) * 1e3:.3f} |")
        print(f"| from start to end | {1e3 / middle(whole['jax']):.3f} |")
        if loop:
            ours = [quick / slow for quick, slow in zip(whole["jax"], loop, strict=True)]
            engines = [one / other for one, other in zip(whole["onnx"], whole["jax"], strict=True)]
            nets = [one / other for one, other in zip(network["onnx"], network["jax"], strict=True)]
            print(f"\nratios by round: kdhash encode (jax) / loop by hand {spread(ours)}; ", end="")
            print(f"encode with onnx / with jax {spread(engines)}; network alone onnx / jax {spread(nets)}")


if __name__ == "__main__":
    main()
