"""`kdhash export RUN OUT`: arguments and messages."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """The command 'export'."""
    parser = commands.add_parser(
        "export",
        help="a trained student as a self-contained model folder",
        description="Takes one row out of a run of dmth, brcd or kdcmh: weights, portable programs (StableHLO, ONNX), a model "
        "card. Each is compared with the trained network first; a difference stops the export.",
    )
    add = parser.add_argument
    add("workdir", metavar="RUN", type=Path, help="the --workdir of a run")
    add("out", metavar="OUT", type=Path, help="the model folder to write")
    add(
        "--row",
        help="which row: a student, or 'teacher' of BRCD and KDCMH runs (default: fused, brcd, kdcmh, by the run's method)",
    )
    add("--seed", type=int, help="of which seed, in BRCD and KDCMH runs (default: the first)")
    add(
        "--weights-dir",
        default="weights",
        metavar="DIR",
        help="where the frozen networks of BRCD and KDCMH runs lie (default ./weights); DMTH students need none",
    )
    add(
        "--data-dir",
        metavar="DIR",
        help="where data sets lie: pictures of the run's own are then checked too, beside random ones",
    )
    add("--image-size", type=int, metavar="N", help="pixels of a side, where the run's config has 0")
    add(
        "--alone",
        action="store_true",
        help="leave out that a BRCD student may search its teacher's codes: the teacher's weights are then not needed",
    )
    onnx = parser.add_mutually_exclusive_group()
    onnx.add_argument(
        "--onnx", action="store_true", default=None, help="fail where ONNX files cannot be written"
    )
    onnx.add_argument(
        "--no-onnx", action="store_false", default=None, dest="onnx", help="write no ONNX files"
    )
    add("--json", action="store_true", help="print model.json")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carries out parsed arguments; 0, or 2 after one line on standard error that says what to do."""
    from kdhash.export.write import export_run

    try:
        facts = export_run(
            args.workdir,
            args.out,
            row=args.row,
            seed=args.seed,
            weights_dir=args.weights_dir,
            data_dir=args.data_dir,
            image_size=args.image_size,
            alone=args.alone,
            onnx=args.onnx,
        )
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("KDHASH_TRACEBACK"):
            raise
        print("kdhash: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(facts.document, indent=1, ensure_ascii=False))
    else:
        print("\n".join(_told(facts)))
    return 0


def _told(facts: Any) -> Iterator[str]:
    document = facts.document
    yield (
        f"{facts.folder}: {facts.kind} model {facts.hash[:12]}, {facts.bits} bits, pictures of {facts.size} x {facts.size}, "
        f"{document['facts']['parameters']:,} parameters"
    )
    for one in document["checks"]:
        turned = f"{one['turned']} turned, of {one['near_zero']} near zero" if one["turned"] else "equal"
        yield f"  {one['checked']}, {one['codes']} {one['on']}: {one['bits']:,} bits, {turned}"
    for name, reason in document["left_out"].items():
        yield f"  {name} left out: {reason}"
    for one in facts.searches[1:]:
        yield f"  its queries may also search codes of model {one[:12]}, its teacher"
