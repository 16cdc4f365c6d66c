"""Extractions in a process of their own, for tests that kill them, run several at once, or watch their memory."""

import argparse
import io
import resource
import sys
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from kdhash.data import load_dataset
from kdhash.data.stream import LoosePictures, PictureStream
from kdhash.models.backbones import make_backbone
from kdhash.teachers import cache
from kdhash.teachers.extract import fill_cache
from kdhash.teachers.registry import load_teacher, save_variables

SPEC = {
    "arch": "mlp",
    "sizes": {"widths": (8,)},
    "weights": "m.safetensors",
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
}


def tiny_teacher(folder: Path, size: int, **how):
    if not (folder / "m.safetensors").exists():
        net = make_backbone("mlp", classes=10, widths=(8,))
        save_variables(
            folder / "m.safetensors", net.init(jax.random.key(0), np.zeros((1, size, size, 3), np.float32))
        )
    return load_teacher(
        "tiny", SPEC | {"image_size": size}, weights_dir=folder, image_size=size, classes=10, **how
    )


def hang_at(moment: str) -> None:
    """Makes this process stand still, for the test to kill: 'write3' halfway through the fourth file, or 'manifest'."""

    def stand_still():
        print("hanging", flush=True)
        time.sleep(600)

    savez, written = np.savez, []

    def half(path, **arrays):
        savez(path, **arrays)
        written.append(path)
        if f"write{len(written) - 1}" == moment:
            path.write_bytes(path.read_bytes()[:1000])
            stand_still()

    np.savez = half
    if moment == "manifest":
        cache._write_manifest = lambda folder, header: stand_still()


def memory_of(folder: Path) -> None:
    """Prints how many MiB the peak grows from few pictures to many, of sizes that differ."""
    rng = np.random.default_rng(0)
    encoded = []
    for side in (90, 100, 110):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (side, 96, 3), dtype=np.uint8)).save(file, "BMP")
        encoded.append(file.getvalue())
    teacher = tiny_teacher(folder, 96)
    peaks = []
    for count in (600, 6000):  # 158 MiB
        images = LoosePictures(count, lambda rows: [encoded[row % 3] for row in rows], "fail")
        extract(teacher, PictureStream(images, str(count), str), folder / str(count), ("original",))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(peaks[1] - peaks[0])


def extract(teacher, pictures, folder, views=("original", "augment1")):
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    return fill_cache(teacher, pictures, views, folder, mesh=mesh, batch_size=40, shard_rows=200)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hang", default="")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--process", nargs=3, metavar=("PORT", "COUNT", "INDEX"))
    args = parser.parse_args()
    if args.memory:
        memory_of(args.folder)
        sys.exit()
    if args.process:
        port, count, index = map(int, args.process)
        jax.distributed.initialize(f"localhost:{port}", count, index)
    hang_at(args.hang)
    extract(tiny_teacher(args.folder.parent, 8), load_dataset("digits", None), args.folder)
