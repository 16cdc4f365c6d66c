"""`python -m kdhash features`: features of any pictures by any published networks, into the feature cache."""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """The command 'features'."""
    parser = commands.add_parser(
        "features",
        help="what published networks see in pictures, into a cache folder",
        description="Computes features (and class scores, where a network has them) of all pictures. Killed at any moment, "
        "the same command goes on; done once, it only verifies.",
    )
    add = parser.add_argument
    add(
        "--data", required=True, metavar="DIR", help="a TFDS ArrayRecord folder, or a folder of picture files"
    )
    add("--split", nargs="+", default=(), metavar="NAME", help="only these splits of a TFDS folder")
    add(
        "--teacher",
        required=True,
        action="append",
        metavar="SOURCE",
        help="a weight file, a Hugging Face folder, or hf://owner/name[@revision]; or an entry as configs have it, in JSON: "
        '{"weights": "x.pth", "variant": "tf_efficientnet_b0", "image_size": 96}; may be given several times',
    )
    add("--weights-dir", default="", metavar="DIR", help="where sources are looked for")
    add("--cache", required=True, metavar="DIR", help="where the folders of features are put")
    add(
        "--views",
        nargs="+",
        default=("original",),
        metavar="VIEW",
        help="original (default), flip, augment1, augment2, ..., contrast1, contrast2, ...",
    )
    add("--batch-size", type=int, default=100, help="pictures at a time, over all devices (default 100)")
    add(
        "--shard-rows",
        type=int,
        default=1000,
        help="pictures a file; a kill loses at most these (default 1000)",
    )
    add("--dtype", default="float32", help="what networks compute in: float32 (default) or bfloat16")
    add(
        "--on-error",
        choices=["skip", "fail"],
        default="skip",
        help="a file that is no sound picture: leave it out and list it at the end (default), or stop",
    )
    add(
        "--coordinator",
        metavar="HOST:PORT",
        help="address of process 0, where several processes share the work",
    )
    add("--process-count", type=int, help="how many processes there are")
    add("--process-index", type=int, help="which one this is, from 0")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carries out parsed arguments; 0, or 1 after one line on standard error that says what to do."""
    from kdhash import processes  # here: --help starts no JAX

    try:
        _check(args)
        _extract(args)
    except (ValueError, OSError) as error:
        if os.environ.get("KDHASH_TRACEBACK"):
            raise
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        if processes.several():
            processes.leave(1)  # the others wait for this one, which must not wait for them
        return 1
    return 0


def _check(args: argparse.Namespace) -> None:
    from kdhash.teachers.views import recipe_of

    for view in args.views:
        recipe_of(view)
    for name in ("batch_size", "shard_rows"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}; give at least 1")
    together = (args.coordinator, args.process_count, args.process_index)
    if any(part is not None for part in together) and None in together:
        raise ValueError("give --coordinator, --process-count and --process-index together, or none of them")
    if args.coordinator and not 0 <= args.process_index < args.process_count:
        raise ValueError(
            f"--process-index is {args.process_index} of {args.process_count} processes, counted from 0"
        )


def _extract(args: argparse.Namespace) -> None:
    import jax
    import numpy as np
    from jax.sharding import Mesh

    from kdhash import processes
    from kdhash.data.stream import open_pictures
    from kdhash.teachers import cache
    from kdhash.teachers.extract import fill_cache
    from kdhash.teachers.registry import load_teacher

    mode = "on" if args.coordinator else "off"
    processes.start(mode, coordinator=args.coordinator, count=args.process_count, index=args.process_index)
    first = processes.first()
    say: Callable[[str], None] = (lambda text: print(text, flush=True)) if first else (lambda text: None)
    teachers = []
    for source in args.teacher:
        spec = teacher_spec(source)
        # A published network's size and classes come with its weights; one of kdhash's own files needs them here.
        size, classes = spec.get("image_size", 224), spec.pop("classes", 1)
        name = teacher_name(spec["weights"])
        teachers.append(
            load_teacher(
                name, spec, weights_dir=args.weights_dir, image_size=size, classes=classes, dtype=args.dtype
            )
        )
    say(f"reading {args.data} ...")
    pictures = open_pictures(args.data, splits=args.split, on_error=args.on_error)
    local = len(jax.local_devices())
    batch_size = -(-args.batch_size // local) * local
    say(f"{len(pictures):,} pictures, {jax.device_count()} x {jax.devices()[0].device_kind}")
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    left_out: dict[str, dict[int, str]] = {}
    for teacher in teachers:
        folders, seconds = fill_cache(
            teacher,
            pictures,
            tuple(dict.fromkeys(args.views)),
            args.cache,
            mesh=mesh,
            batch_size=batch_size,
            shard_rows=args.shard_rows,
            progress=_Progress(teacher.name, say),
        )
        for view, folder in folders.items() if first else ():
            skipped = cache.skipped_rows(folder)
            if skipped and args.on_error == "fail":
                row, reason = next(iter(skipped.items()))
                raise ValueError(
                    f"{folder} lacks {len(skipped)} pictures, such as {pictures.name(row)}: {reason}"
                )
            if skipped:
                left_out[folder.name] = skipped
            cache.write_names(folder, _names(pictures, skipped))
            shapes: dict[str, Any] = {}
            for shard in cache.shards(folder):  # checks them
                shapes = {name: array.shape[1:] for name, array in shard.items()}
            found = ", ".join(
                f"{name} {len(pictures) - len(skipped)} x {shape[0]}" for name, shape in shapes.items()
            )
            state = "computed" if seconds else "there already"
            say(f"{teacher.name} {view}: {found}; {state}, verified: {folder}")
    for row in sorted(set().union(*left_out.values())):
        whose = [name for name, skipped in left_out.items() if row in skipped]
        say(f"left out {pictures.name(row)}: {left_out[whose[0]][row]} ({', '.join(whose)})")
    if len({tuple(skipped) for skipped in left_out.values()}) > 1 or 0 < len(left_out) < len(teachers) * len(
        set(args.views)
    ):
        say("not all networks left out the same files: rows of their folders differ; go by rows.txt")


def teacher_spec(source: str) -> dict[str, Any]:
    """A teacher's entry of a config, from what the command was given. Raises ValueError for JSON that is none."""
    if not source.startswith("{"):
        return {"weights": source}
    try:
        spec = json.loads(source)
    except ValueError as error:
        raise ValueError(f"--teacher {source}: no JSON ({error})") from None
    if not isinstance(spec.get("weights"), str):
        raise ValueError(f'--teacher {source}: it lacks "weights", a file, folder or hf://owner/name')
    return spec


def teacher_name(source: str) -> str:
    """What a source is called in the cache: 'resnet50' of 'weights/resnet50.pth', 'owner-name' of 'hf://owner/name@main'."""
    bare = re.sub(r"\.(safetensors|pth|pt|th|bin)$", "", source.rstrip("/"))
    bare = bare.removeprefix("hf://") if bare.startswith("hf://") else Path(bare).name
    return re.sub(r"[^A-Za-z0-9_.]+", "-", bare).strip("-.") or "teacher"


def _names(pictures: Any, skipped: dict[int, str]) -> Iterator[str]:
    """Of each row its file, or its split and place."""
    for row in range(len(pictures)):
        if row not in skipped:
            yield pictures.name(row)


class _Progress:
    """A line every five seconds: pictures done, rate of those computed now, time left."""

    def __init__(self, name: str, say: Callable[[str], None]):
        self.name, self.say, self.view, self.said = name, say, "", 0.0
        self.began = (0, 0.0)

    def __call__(self, view: str, done: int, total: int, seconds: float) -> None:
        if view != self.view:  # the first call: a resumed part, or the batch that was compiled for
            self.view, self.began, self.said = view, (done, seconds), time.monotonic()
            if done < total:
                return
        if time.monotonic() - self.said < 5 and done < total:
            return
        self.said = time.monotonic()
        rows, spent = done - self.began[0], seconds - self.began[1]
        rate = rows / spent if rows and spent > 0 else done / seconds if seconds else 0.0
        left = f"{(total - done) / rate:,.0f} s left" if rate else ""
        self.say(f"{self.name} {view}: {done:,}/{total:,} pictures  {rate:,.1f}/s  {left}")
