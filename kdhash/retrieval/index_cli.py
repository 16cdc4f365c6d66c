"""`kdhash index build | add | delete | merge | verify | info | ivf | export`: arguments and messages."""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SHOWN = 20  # ids in a list for people
SOME_LEFT_OUT = 3

EXAMPLE = """example:
  kdhash encode models/student photos --out photos.codes   # pictures -> codes
  kdhash index build photos.codes photos.index             # codes -> an index
  kdhash search photos.index --picture cat.jpg
"""


def add_parser(commands: Any) -> None:
    """Adds the command `index`, with `run` as the default of the attribute `run`."""
    from kdhash.retrieval.engines.cli import add_export_parser

    parser = commands.add_parser(
        "index",
        help="make and change an index: the folder that is searched",
        description="An index is a folder of codes with ids and metadata, searched by Hamming distance. "
        "Others may search it while it is changed; one process at a time may change it.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, help: str, function: Callable[[argparse.Namespace], int], example: str) -> Any:
        sub = actions.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=f"example:\n  kdhash index {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--json", action="store_true", help="print one JSON document")
        sub.set_defaults(run=run, function=function)
        return sub

    build = action("build", "make an index of codes", _build, "photos.codes photos.index")
    build.add_argument(
        "codes", metavar="CODES", nargs="+", help="folders that `kdhash encode` wrote, or .npy files of codes"
    )
    build.add_argument("out", metavar="OUT", help="the index to make; must not be there yet")
    _add_import(build)
    build.add_argument(
        "--ivf", action="store_true", help="also make the approximate index, see `kdhash index ivf`"
    )

    add = action("add", "add codes to an index", _add, "photos.index new.codes")
    add.add_argument("index", metavar="INDEX")
    add.add_argument(
        "codes", metavar="CODES", help="a folder that `kdhash encode` wrote, or a .npy file of codes"
    )
    add.add_argument(
        "--replace",
        action="store_true",
        help="items whose ids are there already take the place of the old ones; else they are refused",
    )
    _add_import(add)
    _add_timeout(add)

    delete = action(
        "delete", "delete items from an index by id", _delete, "photos.index 2019/img_7.jpg 2019/img_8.jpg"
    )
    delete.add_argument("index", metavar="INDEX")
    delete.add_argument("ids", metavar="ID", nargs="*", help="as in the column 'id' of results")
    delete.add_argument(
        "--ids-file", metavar="FILE", help="a text file with one id a line; - for standard input"
    )
    _add_timeout(delete)

    merge = action(
        "merge",
        "write what is left after many additions and deletions as one segment: smaller, faster to search",
        _merge,
        "photos.index",
    )
    merge.add_argument("index", metavar="INDEX")
    _add_timeout(merge)

    verify = action(
        "verify",
        "read all of an index and check it: files, counts, ids, approximate answers",
        _verify,
        "photos.index",
    )
    verify.add_argument("index", metavar="INDEX")

    info = action("info", "say what is in an index", _info, "photos.index")
    info.add_argument("index", metavar="INDEX")

    ivf = action(
        "ivf",
        "make, or make anew, the approximate index beside the exact one, and measure its recall",
        _ivf,
        "photos.index --recall 0.99",
    )
    ivf.add_argument("index", metavar="INDEX")
    ivf.add_argument(
        "--recall",
        type=float,
        default=0.99,
        metavar="SHARE",
        help="of the true 100 nearest that it must find (default .99)",
    )
    add_export_parser(actions)


def _add_import(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "codes from other programs",
        "CODES is a .npy file: packed uint8 [n, bits/8], bool [n, bits], or -1/+1 or real values [n, bits] "
        "of which the sign counts",
    )
    group.add_argument(
        "--ids",
        metavar="FILE",
        help="a text file with one id a line, in the order of the codes (default 0, 1, 2, ...)",
    )
    group.add_argument(
        "--metadata",
        metavar="FILE",
        help="a Parquet file with one row a code, in their order; a column 'id' gives the ids",
    )
    group.add_argument(
        "--bit-order",
        choices=["msb-first", "lsb-first"],
        default="msb-first",
        help="of packed codes (default msb-first, as np.packbits)",
    )


def _add_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait for another writer (default 60)",
    )


def run(args: argparse.Namespace) -> int:
    """Carries out parsed `index` arguments: 0; 2 after a line on standard error that says what to do; 3 where ids were left
    out."""
    try:
        return args.function(args)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError) as error:
        print(f"kdhash: {error}", file=sys.stderr)
        return 2


def _build(args: argparse.Namespace) -> int:
    from kdhash.retrieval.write_index import build_index

    out = Path(args.out)
    if out.exists():
        raise FileExistsError(f"{out} is already there; `kdhash index add` adds to it, or remove it first")
    with _codes_folders(args, args.codes, out) as folders, _progress("index", "codes") as report:
        index = build_index(folders, out, progress=report)
    facts = {"index": str(out), "items": len(index), "bits": index.bits, "model": index.model}
    line = f"{out}: {_count(len(index), 'item')}, {index.bits} bits"
    if args.ivf:
        from kdhash.retrieval.engines.index_ivf import build_ivf

        made = build_ivf(index)
        facts["ivf"] = made._asdict()
        line += f"; ivf: recall@{made.k} {made.recall:.4f}"
    _say(args, facts, line)
    return 0


def _add(args: argparse.Namespace) -> int:
    from kdhash.retrieval.write_index import add_items

    index = Path(args.index)
    with _codes_folders(args, [args.codes], index) as [folder], _progress("index", "codes") as report:
        added = add_items(index, folder, args.replace, timeout=args.timeout, progress=report)
    replaced = f", {added.replaced:,} of them in the place of old ones" if added.replaced else ""
    _say(
        args,
        {"index": str(index), **added._asdict()},
        f"{index}: {_count(added.added, 'item')} added{replaced}",
    )
    return 0


def _delete(args: argparse.Namespace) -> int:
    from kdhash.retrieval.write_index import delete_items

    ids = list(args.ids)
    if args.ids_file:
        with contextlib.ExitStack() as stack:
            # not str.splitlines(): an id may hold any other sign
            file = (
                sys.stdin
                if args.ids_file == "-"
                else stack.enter_context(open(args.ids_file, encoding="utf-8", newline="\n"))
            )
            ids += [name for line in file if (name := line.removesuffix("\n").removesuffix("\r"))]
    if not ids:
        raise ValueError("no ids; give some, or --ids-file FILE")
    done = delete_items(args.index, ids, timeout=args.timeout)
    _say(
        args, {"index": args.index, **done._asdict()}, f"{args.index}: {_count(done.deleted, 'item')} deleted"
    )
    if not done.unknown:
        return 0
    print(f"kdhash: {_count(len(done.unknown), 'id')} not there:", file=sys.stderr)
    for name in done.unknown[:SHOWN]:
        print(f"  {name}", file=sys.stderr)
    if len(done.unknown) > SHOWN:
        print(f"  and {len(done.unknown) - SHOWN:,} more", file=sys.stderr)
    return SOME_LEFT_OUT


def _merge(args: argparse.Namespace) -> int:
    from kdhash.retrieval.write_index import merge_segments

    with _progress("merge", "items") as report:
        index = merge_segments(args.index, timeout=args.timeout, progress=report)
    _say(
        args,
        {"index": args.index, "items": len(index)},
        f"{args.index}: {_count(len(index), 'item')} in {_count(len(index.segments), 'segment')}",
    )
    return 0


def _verify(args: argparse.Namespace) -> int:
    from kdhash.retrieval.verify_index import verify_index

    with _progress("verify", "bytes") as report:
        found = verify_index(args.index, progress=report)
    facts = {"index": args.index, "sound": not found.problems, **found._asdict()}
    recall = "" if found.recall is None else f"; ivf: recall@100 {found.recall:.4f}"
    sound = f"{args.index}: sound; {_count(found.items, 'item')}, {_count(found.files, 'file')}, {found.bytes:,} bytes{recall}"
    _say(args, facts, "\n".join(found.problems) or sound)
    if found.problems:
        raise ValueError(
            f"{args.index} has {_count(len(found.problems), 'problem')}; bring the files named back from a copy, or build it anew"
        )
    return 0


def _info(args: argparse.Namespace) -> int:
    from kdhash.retrieval.index import open_index

    index = open_index(args.index)
    facts = {
        "index": str(index.path),
        "items": len(index),
        **{
            name: index.manifest[name]
            for name in ("bits", "bit_order", "model", "searched_by", "preprocessing", "generation")
        },
        "columns": index.columns,
        "segments": len(index.segments),
        "deleted": sum(segment.count - segment.live for segment in index.segments),
        "thumbnails": any("thumbs.bin" in segment.files for segment in index.segments),
        "bytes": sum(file["bytes"] for segment in index.segments for file in segment.facts["files"].values()),
        "ivf": _ivf_state(index),
    }
    shown = facts | {
        "model": index.model or "none: codes from elsewhere",
        "searched_by": ", ".join(index.searched_by) or "–",
        "columns": ", ".join(f"{name} ({kind})" for name, kind in {"id": "string", **index.columns}.items()),
        "thumbnails": "yes" if facts["thumbnails"] else "no",
        **{name: f"{facts[name]:,}" for name in ("items", "deleted", "bytes")},
    }
    _say(args, facts, "\n".join(f"{name.replace('_', ' '):15}{value}" for name, value in shown.items()))
    return 0


def _ivf(args: argparse.Namespace) -> int:
    from kdhash.retrieval.engines.index_ivf import build_ivf
    from kdhash.retrieval.index import open_index

    made = build_ivf(open_index(args.index), recall=args.recall)
    recall = f"recall@{made.k} {made.recall:.4f}"
    line = (
        f"{args.index}: {made.probes:,} of {made.lists:,} lists are looked at; {recall}; {made.seconds:.1f} s"
    )
    _say(args, {"index": args.index, **made._asdict()}, line)
    return 0


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _ivf_state(index: Any) -> str:
    """'none', 'current', or 'stale' where items have come or gone since it was made."""
    from kdhash.retrieval.engines.ivf import ivf_facts

    path = index.path / "ivf.faiss"
    if not path.exists():
        return "none"
    return "current" if ivf_facts(path)["generation"] == index.generation else "stale"


def _say(args: argparse.Namespace, facts: dict[str, Any], line: str) -> None:
    print(json.dumps(facts, indent=1, ensure_ascii=False) if args.json else line)


@contextlib.contextmanager
def _codes_folders(args: argparse.Namespace, codes: list[str], beside: Path) -> Iterator[list[Path]]:
    """Folders of codes: those given, and what .npy files become, for as long as it is needed."""
    arrays = [path for path in codes if path.endswith(".npy")]
    for path in arrays:
        if not Path(path).exists():
            raise FileNotFoundError(
                f"{path} is not there; give a .npy file of codes, or a folder that `kdhash encode` made"
            )
    if (args.ids or args.metadata) and (len(arrays), len(codes)) != (1, 1):
        raise ValueError(
            "--ids and --metadata belong to one .npy file of codes; a folder of codes has its own"
        )
    if not arrays:
        yield [Path(path) for path in codes]
        return
    from kdhash.retrieval.import_codes import import_codes
    from kdhash.retrieval.index_lock import folder_beside

    with folder_beside(beside, "importing") as place:
        folders = []
        for number, path in enumerate(codes):
            folders.append(Path(path))
            if path in arrays:
                target = place / str(number)
                folders[-1] = import_codes(
                    path, target, ids=args.ids, metadata=args.metadata, bit_order=args.bit_order
                )
        yield folders


@contextlib.contextmanager
def _progress(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A function of (done, total) that says on standard error how far it is, once it takes longer than a second."""
    from kdhash.progress import Progress

    shown: list[Progress] = []
    began = time.monotonic()

    def report(done: int, total: int) -> None:
        if not shown and done < total and time.monotonic() - began > 1:
            shown.append(Progress(label, total, unit, start=done))
        if shown:
            shown[0].update(done)

    try:
        yield report
    finally:
        for progress in shown:
            progress.close()
