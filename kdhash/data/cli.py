"""`python -m kdhash prepare cifar10 | cifar100 | folder | pairs | mirflickr25k | nuswide`: arguments and messages."""

import argparse
import sys
from pathlib import Path

from kdhash.data.prepare_cifar import ARCHIVES, VERSION, dataset_name, download_cifar, prepare_cifar
from kdhash.data.prepare_flickr import PUBLISHED, prepare_mirflickr25k, prepare_nuswide
from kdhash.data.prepare_folder import prepare_folder
from kdhash.data.prepare_pairs import SIZE, PairReport, prepare_pairs

SOME_LEFT_OUT = 3  # exit status: written, but some rows could not be used
SHOWN = 20


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
        kind.add_argument(
            "--per-class",
            metavar="N",
            type=int,
            default=0,
            help=f"only the first N pictures of each class and split, as {name}_firstN",
        )
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
    _add_pairs(kinds)
    parser.set_defaults(run=run)
    return parser


def _add_pairs(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    kind = kinds.add_parser(
        "pairs",
        help="pictures with texts, listed in a manifest",
        description="FILE: .jsonl, .csv or .parquet with the fields image, text (or texts, caption, captions), and "
        f"optionally labels, id, split. Exit status {SOME_LEFT_OUT}: written, but some rows were left out.",
    )
    kind.add_argument("manifest", metavar="FILE", type=Path)
    kind.add_argument("--name", required=True, help="the data set's name: lower-case letters, digits, _")
    _add_data_dir(kind)
    kind.add_argument(
        "--images", metavar="DIR", type=Path, help="what image paths are relative to (default: FILE's folder)"
    )
    _add_size(kind)
    kind.add_argument(
        "--query-share",
        type=float,
        default=0.1,
        help="share of the split query, without a field split (default .1)",
    )
    kind.add_argument("--seed", type=int, default=0, help="of the choice of queries (default 0)")
    for name, title in (("mirflickr25k", "MIRFLICKR-25K"), ("nuswide", "NUS-WIDE, 10 labels")):
        kind = kinds.add_parser(name, help=f"{title} from the folder of its published files")
        kind.add_argument("--source", metavar="DIR", type=Path, required=True, help="where they are unpacked")
        _add_data_dir(kind)
        _add_size(kind)


def run(args: argparse.Namespace) -> int:
    """Carries out parsed `prepare` arguments; 0, or 3 where pairs were left out, or 1 after one line on standard error that
    says what to do."""
    try:
        if args.kind in ("pairs", *PUBLISHED):
            return _run_pairs(args)
        return _run_folder(args) if args.kind == "folder" else _run_cifar(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run_cifar(args: argparse.Namespace) -> int:
    name = dataset_name(args.kind, args.per_class)
    target = args.data_dir / name / VERSION
    if target.exists():
        print(f"{target} is already there; remove it to prepare it again")
        return 0
    if args.download:
        print(f"fetching {ARCHIVES[args.kind][0].file} to {args.data_dir / 'downloads'} ...", flush=True)
    archive = download_cifar(args.kind, args.data_dir) if args.download else args.archive
    folder, counts = prepare_cifar(
        args.kind,
        archive,
        args.data_dir,
        per_class=args.per_class,
        allow_unverified=args.allow_unverified,
    )
    if not args.per_class and counts != {"train": 50_000, "test": 10_000}:
        print(f"note: the published {args.kind} has 50,000 train and 10,000 test pictures")
    _print_result(name, folder, counts)
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


def _run_pairs(args: argparse.Namespace) -> int:
    if args.kind == "pairs":
        report = prepare_pairs(
            args.manifest,
            args.name,
            args.data_dir,
            images=args.images,
            size=args.size,
            query_share=args.query_share,
            seed=args.seed,
        )
    else:
        prepare = prepare_mirflickr25k if args.kind == "mirflickr25k" else prepare_nuswide
        report = prepare(args.source, args.data_dir, size=args.size)
    return _print_pairs(report, PUBLISHED.get(args.kind))


def _print_pairs(report: PairReport, published: int | None) -> int:
    _print_result(report.folder.parent.name, report.folder, report.counts)
    print(f"{len(report.label_names)} labels: {', '.join(report.label_names) or 'none'}")
    if published and sum(report.counts.values()) != published:
        print(f"note: published results have {published:,} pairs")
    if not report.skipped:
        return 0
    print(f"left out {len(report.skipped)} rows, all listed in {report.skipped_file}:")
    for place, identity, reason in report.skipped[:SHOWN]:
        print(f"  {place}, {identity}: {reason}")
    if len(report.skipped) > SHOWN:
        print(f"  and {len(report.skipped) - SHOWN} more")
    return SOME_LEFT_OUT


def _print_result(name: str, folder: Path, counts: dict[str, int]) -> None:
    sizes = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    print(f"{name}: {sizes} pictures in {folder}")


def _add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size",
        type=int,
        default=SIZE,
        help=f"pixels of a side: shorter side resized, centre cut (default {SIZE})",
    )


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="where data sets lie (default ./data)"
    )
