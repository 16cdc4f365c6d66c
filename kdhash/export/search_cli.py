"""`kdhash search`: the nearest items of an index, by a picture, a text, an id or a code."""

import argparse
import contextlib
import itertools
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdhash.export.commands import BAD_INPUT, SOME_LEFT_OUT, carry_out, counted

if TYPE_CHECKING:
    from kdhash.export.queries import Query
    from kdhash.retrieval.index import Index

BLOCK = 256  # queries of a batch that are encoded and searched together
NUMPY_ITEMS = 10**7  # up to here one query is answered by NumPy before Numba is even loaded
EXAMPLES = """examples:
  kdhash search photos.index --picture cat.jpg
  kdhash search photos.index --text "a dog in snow" -k 20      # a model that reads texts
  kdhash search photos.index --id holiday/7.jpg --radius 6     # all within 6 bits; needs no model
  kdhash search photos.index --picture cat.jpg --where 'label = "cat" and width > 300' --columns label,tags
  kdhash search photos.index --picture cat.jpg --paths | xargs open
  kdhash search photos.index --picture cat.jpg --sheet found.png
  kdhash search photos.index --batch queries.jsonl > answers.jsonl

queries.jsonl has one of {"picture": "cat.jpg"}, {"text": "a dog"}, {"id": "holiday/7.jpg"}, {"code": "9f3c..."} a line, pictures
relative to the file; --batch also takes a folder of codes (`kdhash encode`), a folder of pictures, and a .txt file of ids (or,
where its lines are no ids, of texts). It answers with a line of JSON a query, in their order.

Distances are bits that differ (Hamming). Equal distances come in the order of adding. `kdhash index info INDEX` lists columns.
"""


def add_parser(commands: Any) -> None:
    """The command 'search'."""
    parser = commands.add_parser(
        "search",
        help="the nearest items of an index, by picture, text, id or code",
        description="Finds the items of INDEX whose codes differ from the query's in the fewest bits.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("index", metavar="INDEX", help="made by `kdhash index build`")
    group = parser.add_argument_group("the query, one of")
    query = group.add_mutually_exclusive_group(required=True)
    query.add_argument("--picture", "--image", metavar="FILE", help="a picture file")
    query.add_argument("--text", metavar="TEXT", help="some words, where the model reads texts")
    query.add_argument("--id", metavar="ID", help="an item of the index, which is left out of the results")
    query.add_argument("--code", metavar="HEX", help="a code in hexadecimal digits, the first bit first")
    query.add_argument("--batch", metavar="FILE", help="many queries, see below; one line of JSON a query")
    add(
        "--model",
        metavar="MODEL",
        help="the model folder that makes codes of pictures and texts (default: the one that encoded the items, if it still "
        "lies where it lay)",
    )
    add("-k", type=int, metavar="K", help="how many results (default 10; with --radius all)")
    add("--radius", type=int, metavar="BITS", help="only items that differ in at most so many bits")
    add(
        "--where",
        metavar="FILTER",
        help="only items that pass, such as 'label = \"dog\" and not width < 300'",
    )
    add("--engine", default="exact", metavar="NAME", help="exact (default), or ivf (see `kdhash index ivf`)")
    add(
        "--model-engine",
        choices=["auto", "jax", "stablehlo", "onnx"],
        default="auto",
        help="what runs the model: auto (default; onnx where the extra 'onnx' is installed, which starts fastest, else jax), ...",
    )
    add("--columns", metavar="A,B", help="metadata columns to show (default: the first few; with --json all)")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON document")
    output.add_argument("--paths", action="store_true", help="print file names alone, nearest first")
    add("--sheet", metavar="PNG", help="also draw the query and its results as one picture")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carries out parsed arguments: 0; 2 after one line on standard error; 3 where queries of a batch could not be answered."""
    return carry_out(_batch if args.batch is not None else _search, args)


def _search(args: argparse.Namespace) -> int:
    from kdhash.export.answers import as_json, as_table, file_path, search, shown_columns
    from kdhash.export.queries import KINDS, Query, QueryEncoder

    index, options = _opened(args)
    [query] = [Query(kind, getattr(args, kind)) for kind in KINDS if getattr(args, kind) is not None]
    encoder = QueryEncoder(index, args.model, args.model_engine)
    encoder.fill([query])
    if query.error:
        raise ValueError(query.error)
    assert query.code is not None
    columns = _columns(args, index)
    wanted = shown_columns(index) if columns is None and not args.json else columns
    if len(index) <= NUMPY_ITEMS:
        os.environ.setdefault("KDHASH_HAMMING", "numpy")
    begun = time.perf_counter()
    [results] = search(index, [query], wanted, **options)
    searched = time.perf_counter() - begun
    if len(results) <= 10_000:  # a second time: the first one maps and checks files, and loads kernels
        begun = time.perf_counter()
        index.search(query.code[None], **options)
        searched = time.perf_counter() - begun
    times = {"encode_ms": encoder.seconds["encode"] * 1000, "search_ms": searched * 1000}
    if args.sheet:
        _draw(args.sheet, index, query, results)
    if args.json:
        asked = {"kind": query.kind, "value": query.value, "code": query.code.tobytes().hex()}
        limits = {"k": options["k"], "radius": args.radius, "where": args.where, "engine": args.engine}
        answer = {"index": str(index.path), "items": len(index), "query": asked, **limits, "results": results}
        print(as_json({**answer, **{name: round(value, 3) for name, value in times.items()}}))
        return 0
    if args.paths:
        for result in results:
            print(file_path(index, result["id"]))
        return 0
    if results:
        print(as_table(results, wanted or []))
    within = f" within {counted(args.radius, 'bits')}" if args.radius is not None else ""
    passing = f" that pass {args.where!r}" if args.where else ""
    encode = f"encode {times['encode_ms']:.1f} ms, " if encoder.seconds["encode"] else ""
    loading = f"model {encoder.seconds['model']:.1f} s, " if encoder.seconds["model"] else ""
    found = f"{len(results):,} of {counted(len(index), 'items')}{within}{passing}"
    print(f"{found}; {loading}{encode}search {times['search_ms']:.2f} ms")
    return 0


def _batch(args: argparse.Namespace) -> int:
    from kdhash.export.answers import as_json, search
    from kdhash.export.queries import QueryEncoder, model_folder, read_batch

    for name in ("paths", "sheet"):
        if getattr(args, name):
            raise ValueError(f"--{name} is for one query; --batch answers in JSON lines")
    index, options = _opened(args)
    encoder = QueryEncoder(index, args.model, args.model_engine)
    texts_possible = False
    with contextlib.suppress(ValueError, OSError):
        from kdhash.export.model import read_model

        texts_possible = read_model(model_folder(index, args.model)).kind == "image-text"
    columns = _columns(args, index) or []
    queries = read_batch(Path(args.batch), index, texts_possible)
    failed = total = 0
    searched = 0.0
    while block := list(itertools.islice(queries, BLOCK)):
        encoder.fill([query for query in block if query.code is None])
        sound = [query for query in block if not query.error]
        begun = time.perf_counter()
        answers = iter(search(index, sound, columns, **options) if sound else [])
        searched += time.perf_counter() - begun
        for query in block:
            answer: dict[str, Any] = {query.kind: query.value}
            answer |= {"error": query.error} if query.error else {"results": next(answers)}
            print(as_json(answer))
        total += len(block)
        failed += len(block) - len(sound)
    if not total:
        raise ValueError(f"{args.batch} has no queries")
    seconds = encoder.seconds
    loading = (
        f"model {seconds['model']:.1f} s, encode {seconds['encode']:.2f} s, " if seconds["model"] else ""
    )
    unanswered = f", {failed:,} could not be answered (their lines have 'error')" if failed else ""
    done = f"{total:,} {'query' if total == 1 else 'queries'}{unanswered}"
    print(f"kdhash: {done}; {loading}search {searched:.2f} s", file=sys.stderr)
    return BAD_INPUT if failed == total else SOME_LEFT_OUT if failed else 0


def _opened(args: argparse.Namespace) -> tuple["Index", dict[str, Any]]:
    """The index, and what `search` is asked for."""
    from kdhash.retrieval.filters import parse_filter
    from kdhash.retrieval.index import open_index

    if args.k is not None and args.k < 1:
        raise ValueError(f"-k is {args.k}; give at least 1")
    if args.radius is not None and args.radius < 0:
        raise ValueError(f"--radius is {args.radius}; give 0 bits or more")
    where = parse_filter(args.where) if args.where else None
    index = open_index(args.index)
    if where is not None:
        where.check({"id": "string", **index.columns})
    k = args.k if args.k is not None or args.radius is not None else 10
    return index, {"k": k, "radius": args.radius, "where": where, "engine": args.engine}


def _columns(args: argparse.Namespace, index: "Index") -> list[str] | None:
    if args.columns is None:
        return None
    columns = [name.strip() for name in args.columns.split(",") if name.strip()]
    for name in columns:
        if name not in ("id", "number", *index.columns):
            raise ValueError(
                f"--columns: {index.path} has no column {name!r}; it has {', '.join(['id', *index.columns])}"
            )
    return [name for name in columns if name != "id"]


def _draw(path: str, index: "Index", query: "Query", results: Sequence[dict[str, Any]]) -> None:
    from kdhash.data.pictures import open_rgb
    from kdhash.export.thumbnails import thumbnail
    from kdhash.retrieval.contact_sheet import CELL, Picture, draw_groups

    own = index.thumbnail(query.number) if query.number >= 0 else None
    if query.kind == "picture":
        own = thumbnail(open_rgb(Path(query.value)), CELL)
    asked = Picture(own, Path(query.value).name if own else query.value, "")
    found = [
        Picture(index.thumbnail(row["number"]), row["id"], counted(row["distance"], "bits"))
        for row in results
    ]
    sheet = draw_groups([("query", [asked]), (counted(len(found), "results"), found)])
    temporary = Path(f"{path}.tmp")
    sheet.save(temporary, "PNG")
    os.replace(temporary, path)
    print(f"kdhash: {path} shows the query and {counted(len(results), 'results')}", file=sys.stderr)
