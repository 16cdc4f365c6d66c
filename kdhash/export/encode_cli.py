"""`kdhash encode`: pictures or texts to codes, into a folder or an index."""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from kdhash.export.commands import SOME_LEFT_OUT, carry_out, counted, splits_given

if TYPE_CHECKING:
    from kdhash.export.encode import EncodeReport

SHOWN = 20
EXAMPLES = """examples:
  kdhash encode models/student photos --out photos.codes      # all pictures of a folder; again: only what is new or changed
  kdhash index build photos.codes photos.index                # what `kdhash search` searches
  kdhash encode models/student photos --update photos.index   # later: what is new or changed, straight into the index

SOURCE is
  a folder          all pictures in it and below; ids are paths relative to it
  a picture         that one
  a manifest        .jsonl, .csv or .parquet; a column 'image' with paths (relative to the manifest), optionally 'id';
                    all other columns become metadata
  a TFDS folder     stored as array_record; labels, tags, captions and numbers become metadata
  a .txt file       with --texts: a text a line

Killed at any moment, the same command goes on where it was. Exit status: 0 done; 2 bad input; 3 done, but some pictures
cannot be read: they are left out, and listed in skipped.tsv.
"""


def add_parser(commands: Any) -> None:
    """The command 'encode'."""
    parser = commands.add_parser(
        "encode",
        help="pictures or texts to binary codes",
        description="Writes the codes of all pictures of SOURCE, with ids, metadata and thumbnails, into a folder or an index.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a model folder, made by `kdhash export`")
    add("source", metavar="SOURCE", help="what to encode, see below")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--out",
        metavar="CODES",
        help="the folder of codes to write, or to bring up to date: pictures that SOURCE no longer has leave it",
    )
    target.add_argument(
        "--update",
        metavar="INDEX",
        help="bring this index up to date; items that SOURCE does not have stay, unless --delete",
    )
    add("--delete", action="store_true", help="with --update: take out items that SOURCE does not have")
    add(
        "--texts",
        action="store_true",
        help="encode texts, not pictures (a model that reads texts): captions, texts, caption or text of a manifest or TFDS "
        "folder, or the lines of a .txt file; an item a text, its id is '<row id>#<which>'",
    )
    add("--split", type=splits_given, default=(), metavar="A,B", help="only these splits of a TFDS folder")
    add(
        "--thumbnails",
        type=int,
        metavar="PIXELS",
        help="longer side of thumbnails (default 128, or what CODES has), 0 for none",
    )
    add(
        "--on-error",
        choices=["skip", "fail"],
        default="skip",
        help="a picture that cannot be read: leave it out and list it (default), or stop",
    )
    add(
        "--checksum",
        action="store_true",
        help="compare all pictures by content (sha256); default: only those with another size or time of change",
    )
    add(
        "--engine",
        choices=["jax", "stablehlo", "onnx"],
        default="jax",
        help="what runs the model: jax (default; all accelerators of this machine), stablehlo, or onnx (CPU, extra 'onnx')",
    )
    add(
        "--batch-size",
        type=int,
        default=128,
        metavar="N",
        help="pictures that the model sees at a time (default 128)",
    )
    add("--workers", type=int, metavar="N", help="threads that read and decode (default: processors + 2)")
    add("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carries out parsed arguments: 0; 2 after one line on standard error; 3 where pictures were left out."""
    return carry_out(_encode, args, "stopped; the same command goes on where this one was")


class LoadedLater:
    """A model of which only the facts are known until it has something to encode: often nothing is new."""

    def __init__(self, facts: Any, load: Callable[[], Any]):
        self.__dict__.update(vars(facts))
        self._load = functools.cache(load)

    def encode_pictures(self, pictures: UInt8[np.ndarray, "n size size 3"]) -> UInt8[np.ndarray, "n bytes"]:
        """`Model.encode_pictures`."""
        return self._load().encode_pictures(pictures)

    def encode_texts(self, texts: Sequence[str]) -> UInt8[np.ndarray, "n bytes"]:
        """`Model.encode_texts`."""
        return self._load().encode_texts(texts)


def _encode(args: argparse.Namespace) -> int:
    from kdhash.export.encode_rows import Settings

    if args.delete and not args.update:
        raise ValueError(
            "--delete goes with --update INDEX; --out CODES always leaves out what SOURCE no longer has"
        )
    settings = Settings(
        thumbnails=args.thumbnails,
        batch_size=args.batch_size,
        on_error=args.on_error,
        checksum=args.checksum,
        workers=args.workers,
        model_path=str(Path(args.model).absolute()),
    )
    # what can be wrong with the folders is told before anything slow begins
    from kdhash.export.encode import check_same_model, encode, open_old, update_index
    from kdhash.export.encode_sources import open_source
    from kdhash.export.encode_texts import open_texts
    from kdhash.export.model import IMAGE_TEXT, load_model, read_model
    from kdhash.retrieval.index import open_index

    facts = read_model(args.model)
    if args.texts and facts.kind != IMAGE_TEXT:
        raise ValueError(
            f"{args.model} hashes pictures only; --texts needs a model that learned both (a KDCMH student)"
        )
    if args.out:
        open_old(Path(args.out), facts)
    else:
        check_same_model(open_index(args.update).manifest, facts, Path(args.update))
    new = bool(args.out) and not Path(args.out).exists()
    print(f"looking at {args.source} ...", file=sys.stderr, flush=True)
    source = (open_texts if args.texts else open_source)(args.source, splits=args.split)
    for note in source.notes:
        print(f"note: {note}", file=sys.stderr)
    model = LoadedLater(facts, lambda: load_model(args.model, engine=args.engine, batch_size=args.batch_size))
    if args.out:
        report = encode(model, source, args.out, settings)
    else:
        report = update_index(model, source, args.update, settings, delete=args.delete)
    if args.json:
        print(json.dumps(_facts(report, model, source.unit), indent=1, ensure_ascii=False))
    else:
        _tell(report, model, source.unit, args, new)
    return SOME_LEFT_OUT if report.skipped else 0


def _facts(report: "EncodeReport", model: Any, unit: str) -> dict[str, Any]:
    facts = dataclasses.asdict(report) | {"items": unit, "bits": model.bits, "model": model.hash}
    facts["folder"] = str(report.folder)
    facts["skipped"] = [{"id": name, "reason": reason} for name, reason in report.skipped]
    facts["skipped_file"] = report.skipped_file and str(report.skipped_file)
    facts["seconds"] = {stage: round(seconds, 4) for stage, seconds in report.seconds.items()}
    return facts


def _tell(report: "EncodeReport", model: Any, unit: str, args: argparse.Namespace, new: bool) -> None:
    parts = {
        f"{report.encoded:,} encoded": report.encoded or report.count != report.unchanged,
        f"{report.resumed:,} done by a run before": report.resumed,
        f"{report.recognized:,} recognized by content": report.recognized,
        f"{report.unchanged:,} unchanged": report.unchanged,
        f"{report.removed:,} removed": report.removed,
    }
    told = ", ".join(text for text, say in parts.items() if say)
    what = counted(report.count, unit if args.out else "items")
    print(f"{report.folder}: {what}, {model.bits} bits; {told}; {report.seconds['total']:.1f} s")
    if report.gone:
        what = counted(report.gone, "items")
        print(f"still in the index, and not in {args.source}: {what}; --delete takes them out")
    if report.changed:
        print(f"{counted(report.changed, unit)} changed after being read: run the same command once more")
    if report.skipped:
        print(f"left out {counted(len(report.skipped), unit)}, listed in {report.skipped_file}:")
        for name, reason in report.skipped[:SHOWN]:
            print(f"  {name}: {reason}")
        if len(report.skipped) > SHOWN:
            print(f"  and {len(report.skipped) - SHOWN:,} more")
    if new:
        codes = Path(args.out)
        print(f"next: kdhash index build {codes} {codes.with_suffix('.index')}")
