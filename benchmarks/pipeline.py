"""Whether the device waits: the input pipeline of a CIFAR student against its training step, and how fast pictures are decoded.

    python benchmarks/pipeline.py --host-devices 8 --steps 40 --json pipeline_cpu.json
    python benchmarks/pipeline.py --pictures 128 1024 --steps 400 --dtype bfloat16 --json pipeline_gpu.json

The step is that of DMTH's student with augmentation, on synthetic pictures of 32 pixels. `step alone`: one batch that lies on
the device, again and again. 'streamed': batches are put together by the host and placed ahead, as training does; 'resident': all
data lie on the device (on one device of a CPU or an accelerator), and a step is handed the numbers of its rows. `idle` is the
share of the time in which the device had no step to work on, as training logs it; `input alone` is how fast the host puts batches
together. 'jpeg folder' decodes files of 256 pixels and cuts out 224, with the threads that encoding uses.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measure import Record, device_options, set_devices

ROWS, SIZE, BITS, CLASSES = 50_000, 32, 64, 10
IN_FLIGHT = 2


def student_rows(args: argparse.Namespace, pictures: int, record: Record) -> None:
    import jax
    from ml_collections import ConfigDict

    from kdhash.data import batches, device_prefetch
    from kdhash.experiment.student import picture_preparation
    from kdhash.methods.dmth import LossWeights, hash_student
    from kdhash.training.idle import DeviceClock
    from kdhash.training.mapping import data_mesh, make_train_step, put_batch, replicate
    from kdhash.training.resident import fits, numbers, place
    from kdhash.training.state import create_state, make_optimizer

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (ROWS, SIZE, SIZE, 3), np.uint8)
    labels = rng.integers(0, CLASSES, ROWS).astype(np.int32)
    codes = np.tanh(rng.normal(size=(ROWS, 2, BITS))).astype(np.float32)

    def fetch(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": images[rows], "label": labels[rows], "teacher_codes": codes[rows]}

    method = hash_student(
        arch="resnet_cifar",
        sizes={"depth": args.depth},
        bits=BITS,
        classes=CLASSES,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        weights=LossWeights(quantization=0.1, balance=0.1, code=2.0, relation=2.0),
        dtype=args.dtype,
    )
    optimizer = make_optimizer(
        "sgd", learning_rate=1e-3, weight_decay=5e-4, warmup_steps=0, steps=10**7, clip_norm=5.0
    )
    augment = {"pad": 4, "flip": True, "cutout": 0, "noise": 0.0}
    jitter = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    prepare = picture_preparation(ConfigDict(augment | jitter))
    mesh = data_mesh()
    on_cpu = jax.default_backend() == "cpu"
    step = make_train_step(method, optimizer, seed=0, mesh=mesh, prepare=prepare)
    one = {"image": np.zeros((1, SIZE, SIZE, 3), np.float32)}
    state = replicate(jax.jit(lambda: create_state(method, optimizer, one, 0))(), mesh)

    def run(state: Any, stream: Any, table: Any, steps: int) -> tuple[Any, float, float]:
        """The state, milliseconds a step, and the idle share, as the training loop takes its steps."""
        clock, pending = DeviceClock(inline=on_cpu), []
        for number in range(steps + 3):
            if number == 3:  # compiled, and the first batches are there
                jax.block_until_ready(pending[-1])
                clock.restart()
                start = time.perf_counter()
            batch = next(stream)
            called = time.perf_counter()
            state, terms = step(state, batch, table)
            clock.handed(called, terms, batch)
            pending.append(terms)
            if len(pending) > IN_FLIGHT:
                jax.block_until_ready(pending[-1 - IN_FLIGHT])
        told = clock.read()
        ms = 1e3 * (time.perf_counter() - start) / steps
        clock.close()
        return state, ms, told["idle"]

    def forever(batch: Any) -> Any:
        while True:
            yield batch

    rows = np.arange(ROWS)
    kinds: dict[str, tuple[Any, Any]] = {"streamed": (fetch, None)}
    if fits(fetch, rows, mesh, "jit", 4096):
        kinds["resident"] = (numbers, place(fetch, rows, mesh))
    for kind, (get, table) in kinds.items():
        data = batches(get, rows, batch_size=pictures, seed=0)
        first = put_batch(data[0], mesh)
        state, alone, _ = run(state, forever(first), table, args.steps)
        stream = device_prefetch(data, 0, lambda batch: put_batch(batch, mesh))
        state, ms, idle = run(state, stream, table, args.steps)
        stream.close()
        start = time.perf_counter()
        for number in range(args.steps):
            data[number]
        host = time.perf_counter() - start
        record.add(
            input=kind,
            network=f"resnet{args.depth}",
            dtype=args.dtype,
            pictures=pictures,
            step_ms=alone,
            ms=ms,
            idle=idle,
            fetch_per_s=pictures * args.steps / host,
        )


def jpeg_row(record: Record, count: int) -> None:
    from PIL import Image

    from kdhash.data.sources import DECODE_THREADS
    from kdhash.data.stream import open_pictures

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
            picture = coarse.resize((256, 256), Image.Resampling.BICUBIC)
            picture.save(Path(folder) / f"{number:06}.jpg", quality=90)
        images: Any = open_pictures(folder).images
        times = []
        for _ in range(3):
            start = time.perf_counter()
            images.fitted(np.arange(count), lambda picture: picture[16:240, 16:240], 224)
            times.append(time.perf_counter() - start)
    record.add(input=f"jpeg folder, {DECODE_THREADS} threads", fetch_per_s=count / min(times))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=8, help="of the CIFAR ResNet")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--pictures", type=int, nargs="+", default=[128])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--files", type=int, default=512, help="pictures in the folder")
    device_options(parser)
    args = parser.parse_args()
    set_devices(args)
    record = Record(args.json)
    for pictures in args.pictures:
        student_rows(args, pictures, record)
    jpeg_row(record, args.files)


if __name__ == "__main__":
    main()
