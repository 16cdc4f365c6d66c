"""`kdhash eval`: mAP and its relatives of an index, by a column of labels."""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdhash.export.commands import carry_out, counted, splits_given

if TYPE_CHECKING:
    from kdhash.retrieval.index import Index
    from kdhash.retrieval.items import Items

EXAMPLES = """examples:
  kdhash encode models/student queries --out queries.codes
  kdhash eval photos.index queries.codes --labels label
  kdhash eval photos.index pictures.codes captions.codes --labels tags --k 50 0     # each kind of query apart
  kdhash eval photos.index queries --model models/student --labels label            # encodes them first
  kdhash eval photos.index queries.codes --labels label --engine ivf --k 100        # of an approximate engine, with its recall

An item is relevant to a query when they share a label: the same value in the column, or, in a column of lists, at least one.
Equal distances are in random order for mAP, precision, recall and NDCG (the exact expectation), in the order of adding for
'stable'. mAP@k divides by the hits among the first k, as hashing papers do. All values are means over queries, in 0 to 1; a query
that nothing is relevant to counts as 0. k = 0 means all items.
"""
NAMES = {
    "map": "mAP",
    "precision": "precision",
    "recall": "recall",
    "ndcg": "NDCG",
    "recall_of_exact": "recall of exact",
}


def add_parser(commands: Any) -> None:
    """The command 'eval'."""
    parser = commands.add_parser(
        "eval",
        help="how good an index is: mAP, precision, recall, NDCG by a column of labels",
        description="Searches INDEX with labelled queries, and scores what is found.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("index", metavar="INDEX", help="made by `kdhash index build`")
    add(
        "queries",
        metavar="QUERIES",
        nargs="+",
        help="folders that `kdhash encode` wrote, each scored by itself; or what `kdhash encode` takes as its SOURCE",
    )
    add("--labels", required=True, metavar="COLUMN", help="a metadata column that index and queries have")
    add(
        "--k",
        type=int,
        nargs="+",
        default=(1000, 0),
        metavar="K",
        help="cut-offs; 0: all items (default 1000 0)",
    )
    add("--radius", type=int, default=2, metavar="BITS", help="of the precision within a radius (default 2)")
    add("--engine", default="exact", metavar="NAME", help="exact (default), or ivf (see `kdhash index ivf`)")
    add(
        "--allow-overlap",
        action="store_true",
        help="score queries that lie in the index too (same content, or same id); without it they are an error",
    )
    add(
        "--model",
        metavar="MODEL",
        help="encodes QUERIES that are no folder of codes (default: the one that encoded the index)",
    )
    add(
        "--texts",
        action="store_true",
        help="with QUERIES that are no folder of codes: encode their texts, not pictures",
    )
    add("--split", type=splits_given, default=(), metavar="A,B", help="only these splits of a TFDS folder")
    add("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carries out parsed arguments: 0; 2 after one line on standard error that says what to do."""
    return carry_out(_eval, args)


def _eval(args: argparse.Namespace) -> int:
    from kdhash.export.eval_index import database_side, evaluate_index, query_side
    from kdhash.export.queries import check_codes
    from kdhash.retrieval.index import open_index

    for name, values in (("k", args.k), ("radius", [args.radius])):
        if min(values) < 0:
            raise ValueError(f"--{name} is {min(values)}; give 0 or more")
    if args.engine != "exact" and not any(args.k):
        raise ValueError(
            f"--engine {args.engine} finds the nearest, not all: give --k above 0, such as --k 100"
        )
    index = open_index(args.index)
    database = database_side(index, args.labels)
    if not len(database.codes):
        raise ValueError(f"{args.index} has no items")
    scored = []
    for name in args.queries:
        with _codes(args, name, index) as items:
            check_codes(items.manifest, Path(name), index)
            shared = _overlap(args, index, items, name)
            query = query_side(items, args.labels)
            values = evaluate_index(index, query, database, args.k, args.engine, args.radius)
            kind = items.manifest.get("items", "pictures")
            unlabelled = items.count - len(query.codes)
            scored.append(
                {"name": name, "kind": kind, "unlabelled": unlabelled, "in_index_too": shared, **values}
            )
    facts = {"index": args.index, "items": len(index), "bits": index.bits, "labels": args.labels}
    facts |= {"k": list(args.k), "engine": args.engine, "scores": scored}
    print(json.dumps(facts, indent=1, ensure_ascii=False) if args.json else _told(facts))
    return 0


def _overlap(args: argparse.Namespace, index: "Index", items: "Items", name: str) -> int:
    from kdhash.export.eval_index import overlap

    both = overlap(index, items)
    queries = len({query for query, _ in both})
    if both and not args.allow_overlap:
        query, item = both[0]
        where = "" if query == item else f" (in the index {item!r})"
        raise ValueError(
            f"{counted(queries, 'queries')} of {name} {'is' if queries == 1 else 'are'} in the index too, such as "
            f"{query!r}{where}: each finds itself, and scores come out too good. Take them out of one side, or pass "
            "--allow-overlap"
        )
    return queries


@contextmanager
def _codes(args: argparse.Namespace, name: str, index: "Index") -> Iterator["Items"]:
    """The folder of codes, or what SOURCE becomes for as long as it is needed."""
    from kdhash.retrieval.items import open_items

    if (Path(name) / "manifest.json").is_file():
        yield open_items(name)
        return
    from kdhash.export.encode import encode
    from kdhash.export.encode_rows import Settings
    from kdhash.export.encode_sources import open_source
    from kdhash.export.encode_texts import open_texts
    from kdhash.export.model import load_model
    from kdhash.export.queries import model_folder

    source = (open_texts if args.texts else open_source)(name, splits=args.split)
    model = load_model(model_folder(index, args.model))
    with tempfile.TemporaryDirectory(prefix="kdhash-eval-") as place:
        report = encode(model, source, Path(place) / "codes", Settings(thumbnails=0))
        for missing, reason in report.skipped:
            print(f"kdhash: left out {missing}: {reason}", file=sys.stderr)
        yield open_items(report.folder)


def _told(facts: dict[str, Any]) -> str:
    """A table: for each kind of query the expectation over ties, and the value in stable order."""
    scored, column = facts["scores"], facts["labels"]
    metrics = {name.removesuffix("_stable"): None for name in scored[0] if _is_metric(name)}
    rows = [["", *itertools.chain.from_iterable((_head(scores), "stable") for scores in scored)]]
    for name in metrics:
        values = [scores.get(form) for scores in scored for form in (name, f"{name}_stable")]
        rows.append([_spoken(name), *("" if value is None else f"{value:.4f}" for value in values)])
    counts = {
        "queries": "queries",
        "without a relevant item": "queries_without_relevant",
        f"left out, no {column!r}": "unlabelled",
        "in the index too": "in_index_too",
    }
    for title, name in counts.items():
        if any(scores[name] for scores in scored):
            rows.append(
                [title, *itertools.chain.from_iterable((f"{scores[name]:,}", "") for scores in scored)]
            )
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        row[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    classes = f"{max(scores['classes'] for scores in scored):,} classes"
    ks = ", ".join(str(k) if k else "all" for k in facts["k"])
    head = f"{facts['index']}: {facts['items']:,} items of {facts['bits']} bits, engine {facts['engine']}"
    return "\n".join(
        [f"{head}; labels {column!r}, queries have {classes}; k = {ks}", *(line.rstrip() for line in lines)]
    )


def _is_metric(name: str) -> bool:
    # of the other denominators (@k_min, @k_all) the JSON document tells
    return ("@" in name or name.startswith("precision_radius")) and not name.endswith(("_min", "_all"))


def _head(scores: dict[str, Any]) -> str:
    return f"{scores['kind']} of {Path(scores['name']).name}"


def _spoken(name: str) -> str:
    if name.startswith("precision_radius"):
        return f"precision within {counted(int(name.removeprefix('precision_radius')), 'bits')}"
    metric, _, k = name.partition("@")
    return f"{NAMES[metric]}@{k}"
