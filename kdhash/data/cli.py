"""`python -m kdhash prepare cifar10 | cifar100 | folder`: arguments and messages."""

import argparse
import sys
from pathlib import Path

from kdhash.data.prepare_cifar import ARCHIVES, VERSION, download_cifar, prepare_cifar
from kdhash.data.prepare_folder import prepare_folder


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Adds the command `prepare` to `subparsers`, with `run` as the default of the attribute `run`."""
    parser = subparsers.add_parser(
        "prepare",
        help="build a TFDS ArrayRecord folder",
        description="Build a data set that kdhash (and TensorFlow Datasets) can read. Needs no TensorFlow.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name in ARCHIVES:
        kind = kinds.add_parser(name, help=f"{name} from its published archive")
        source = kind.add_mutually_exclusive_group(required=True)
        files = " or ".join(archive.file for archive in ARCHIVES[name])
        source.add_argument("--archive", metavar="FILE", type=Path, help=files)
        source.add_argument(
            "--download", action="store_true", help="fetch the archive from its authors' page"
        )
        _add_data_dir(kind)
        kind.add_argument("--allow-unverified", action="store_true", help="take an archive of another sha256")
    kind = kinds.add_parser(
        "folder",
        help="a folder of class folders of pictures",
        description="DIR/<class>/... , or DIR/train/<class>/... and DIR/test/<class>/...",
    )
    kind.add_argument("directory", metavar="DIR", type=Path)
    kind.add_argument("--name", required=True, help="the data set's name: lower-case letters, digits, _")
    _add_data_dir(kind)
    kind.add_argument(
        "--size", type=int, default=32, help="pixels of a side: shorter side resized, centre cut (default 32)"
    )
    kind.add_argument(
        "--test-share", type=float, default=0.1, help="share of every class for the split test (default .1)"
    )
    kind.add_argument("--seed", type=int, default=0, help="of the choice of test pictures (default 0)")
    kind.add_argument(
        "--on-error",
        choices=["skip", "fail"],
        default="skip",
        help="a file that is no sound picture: skip and list it at the end (default), or stop",
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carries out parsed `prepare` arguments; 0, or 1 after one line on standard error that says what to
    do."""
    try:
        return _run_folder(args) if args.kind == "folder" else _run_cifar(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run_cifar(args: argparse.Namespace) -> int:
    target = args.data_dir / args.kind / VERSION
    if target.exists():
        print(f"{target} is already there; remove it to prepare it again")
        return 0
    if args.download:
        print(f"fetching {ARCHIVES[args.kind][0].file} to {args.data_dir / 'downloads'} ...", flush=True)
    archive = download_cifar(args.kind, args.data_dir) if args.download else args.archive
    folder, counts = prepare_cifar(args.kind, archive, args.data_dir, allow_unverified=args.allow_unverified)
    if counts != {"train": 50_000, "test": 10_000}:
        print(f"note: the published {args.kind} has 50,000 train and 10,000 test pictures")
    _print_result(args.kind, folder, counts)
    return 0


def _run_folder(args: argparse.Namespace) -> int:
    report = prepare_folder(
        args.directory,
        args.name,
        args.data_dir,
        size=args.size,
        test_share=args.test_share,
        seed=args.seed,
        on_error=args.on_error,
    )
    _print_result(args.name, report.folder, report.counts)
    print(f"{len(report.class_names)} classes: {', '.join(report.class_names)}")
    if report.skipped:
        print(f"skipped {len(report.skipped)} files:")
        for file, reason in report.skipped:
            print(f"  {file}: {reason}")
    return 0


def _print_result(name: str, folder: Path, counts: dict[str, int]) -> None:
    sizes = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    print(f"{name}: {sizes} pictures in {folder}")


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="where data sets lie (default ./data)"
    )
