"""`kdhash dups`: near duplicates in an index, as groups or as pairs."""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdhash.retrieval.row_files import SUFFIXES, replacing, write_rows

if TYPE_CHECKING:
    from kdhash.retrieval.index import Index

SHOWN = 20  # groups, and members of each, in an answer for people
ON_SHEET = 40  # groups, and members of each, on a sheet
MANY = 1_000_000  # items that take seconds
BATCH = 2**14  # items looked up together
PICTURES = (".png", ".jpg", ".jpeg")
Group = tuple[int, list[dict[str, Any]]]  # its number from 1 on, its items

EXAMPLES = """examples:
  kdhash dups photos.index                                   # the largest groups, to be read
  kdhash dups photos.index --radius 6 --out groups.csv       # all groups, a line an item
  kdhash dups photos.index --sheet groups.png                # to be looked at
  kdhash dups photos.index --pairs --out pairs.jsonl         # every pair with its distance
  kdhash dups photos.index --new-since 41207                 # only what touches items added since then

Two items are a pair when their codes differ in at most BITS bits; pairs that share items are one group, so that a chain of small
differences can join items that differ more: the distance to the group's first item says so. The last line of an answer says what
--new-since to use after the next `kdhash index add`.
"""


def add_parser(commands: Any) -> None:
    """Adds the command `dups`, with `run` as the default of the attribute `run`."""
    parser = commands.add_parser(
        "dups",
        help="near duplicates in an index",
        description="Finds the items of INDEX whose codes are nearly the same, as groups, the largest first.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("index", metavar="INDEX", help="made by `kdhash index build`")
    add(
        "--radius",
        type=int,
        default=3,
        metavar="BITS",
        help="that a pair may differ in (default 3; 0: equal codes)",
    )
    add(
        "--where",
        metavar="FILTER",
        help="only among items that pass, such as 'label = \"dog\" and width > 300'",
    )
    add(
        "--new-since",
        type=int,
        metavar="NUMBER",
        help="only pairs with an item of this number or a later one",
    )
    add(
        "--out",
        metavar="FILE",
        help="write all of them to FILE.jsonl or FILE.csv, a line an item (or a pair)",
    )
    add("--pairs", action="store_true", help="pairs, in no particular order, instead of groups")
    add(
        "--max-groups",
        type=int,
        metavar="N",
        help=f"the N largest groups at most (default all; on a screen {SHOWN})",
    )
    add(
        "--max-pairs",
        type=int,
        metavar="N",
        default=1_000_000,
        help="stop after so many pairs (default 1,000,000)",
    )
    add(
        "--sheet",
        metavar="FILE",
        help=f"draw the groups, {ON_SHEET} at most, as one picture, FILE.png or FILE.jpg",
    )
    add("--json", action="store_true", help="print one JSON document; with --out without the groups")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carries out parsed `dups` arguments: 0, or 2 after a line on standard error that says what to do."""
    try:
        _check(args)
        return _pairs(args) if args.pairs else _groups(args)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError) as error:
        print("kdhash: " + " ".join(str(error).split()), file=sys.stderr)
        return 2


def _check(args: argparse.Namespace) -> None:
    for name, suffixes in (("out", SUFFIXES), ("sheet", PICTURES)):
        path = getattr(args, name)
        if path and Path(path).suffix.lower() not in suffixes:
            raise ValueError(f"--{name} {path}: expected a name that ends in {' or '.join(suffixes)}")
    if args.pairs and args.sheet:
        raise ValueError("--sheet draws groups; leave --pairs out")
    for name, most in (("--max-groups", args.max_groups), ("--max-pairs", args.max_pairs)):
        if most is not None and most < 0:
            raise ValueError(f"{name}: expected a number from 0 on, got {most}")


def _open(args: argparse.Namespace) -> tuple["Index", dict[str, Any], dict[str, Any]]:
    """(the index, the arguments of `near_groups` and `near_pairs`, the first facts of an answer)."""
    import numpy as np

    from kdhash.retrieval.index import open_index
    from kdhash.retrieval.index_search import skipped

    index, where = open_index(args.index), None
    if args.where:
        from kdhash.retrieval.filters import parse_filter

        where = parse_filter(args.where)
        where.check({"id": "string", **index.columns})
    skip = [skipped(segment, where) for segment in index.segments]
    task: dict[str, Any] = {
        "blocks": [segment.codes for segment in index.segments],
        "radius": args.radius,
        "skip": skip,
    }
    if args.new_since is not None:
        new = [segment.numbers >= args.new_since for segment in index.segments]
        task["new"] = np.concatenate([np.empty(0, bool), *new])
    items = sum(map(len, task["blocks"])) - sum(int(rows.sum()) for rows in skip if rows is not None)
    if items >= MANY:
        print(f"kdhash: comparing {items:,} items", file=sys.stderr)
    facts = {
        "index": args.index,
        "radius": args.radius,
        "items": items,
        "next_number": index.manifest["next_number"],
    }
    return index, task, facts


def _items_at(index: "Index", positions: Any) -> Iterator[tuple[int, str]]:
    """(number, id) of the items at these positions, in order."""
    from kdhash.retrieval.index_search import numbers_at

    for first in range(0, len(positions), BATCH):
        numbers = numbers_at(index, positions[first : first + BATCH])
        yield from zip(numbers.tolist(), index.rows(numbers, ["id"])["id"].to_pylist(), strict=True)


def _groups(args: argparse.Namespace) -> int:
    from kdhash.retrieval.near_duplicates import near_groups

    index, task, facts = _open(args)
    began = time.perf_counter()
    found = near_groups(**task)
    facts |= {
        "groups_found": len(found.offsets) - 1,
        "items_in_groups": len(found.positions),
        "seconds": round(time.perf_counter() - began, 3),
    }

    def members(most: int | None) -> Iterator[Group]:
        """The `most` largest groups."""
        starts, ends = found.offsets.tolist(), found.offsets[1:].tolist()[:most]
        items = zip(_items_at(index, found.positions), found.distances.tolist(), strict=True)
        for group, (start, end) in enumerate(zip(starts, ends, strict=False), 1):
            some = itertools.islice(items, end - start)
            yield group, [{"number": number, "id": name, "distance": bits} for (number, name), bits in some]

    if args.out:
        rows = (
            {"group": group, "size": len(items)} | item
            for group, items in members(args.max_groups)
            for item in items
        )
        write_rows(args.out, ("group", "size", "number", "id", "distance"), rows)
    if args.sheet:
        _draw(
            args.sheet,
            index,
            members(ON_SHEET if args.max_groups is None else min(args.max_groups, ON_SHEET)),
        )
    if args.json:
        groups = (
            []
            if args.out
            else [{"size": len(items), "items": items} for _, items in members(args.max_groups)]
        )
        listed = {} if args.out else {"groups": groups}
        print(json.dumps(facts | listed, indent=1, ensure_ascii=False))
        return 0
    if not args.out:
        _show(members(SHOWN if args.max_groups is None else args.max_groups))
    print(
        f"{_count(facts['groups_found'], 'group')} with {facts['items_in_groups']:,} of {_count(facts['items'], 'item')}, within "
        f"{_count(args.radius, 'bit')}; {facts['seconds']:.2f} s; next time: --new-since {facts['next_number']}"
    )
    return 0


def _pairs(args: argparse.Namespace) -> int:
    from kdhash.retrieval.near_duplicates import near_pairs

    index, task, facts = _open(args)
    columns = ("distance", "first", "first_id", "second", "second_id")
    every = (
        dict(zip(columns, (distance, *first, *second), strict=True))
        for batch in near_pairs(**task)
        for first, second, distance in zip(
            _items_at(index, batch.first),
            _items_at(index, batch.second),
            batch.distances.tolist(),
            strict=True,
        )
    )
    pairs = itertools.islice(every, args.max_pairs)
    listed = {}
    if args.out:
        count = write_rows(args.out, columns, pairs)
    elif args.json:
        listed["pairs"] = list(pairs)
        count = len(listed["pairs"])
    else:
        count = 0
        for pair in pairs:
            count += 1
            print(f"{pair['distance']:4}  {pair['first_id']}  {pair['second_id']}")
    facts |= {"pairs_found": count, "complete": next(every, None) is None}
    if not facts["complete"]:
        print(f"kdhash: there are more than {args.max_pairs:,} pairs; see --max-pairs", file=sys.stderr)
    if args.json:
        print(json.dumps(facts | listed, indent=1, ensure_ascii=False))
        return 0
    print(
        f"{_count(count, 'pair')} within {_count(args.radius, 'bit')} among {_count(facts['items'], 'item')}; "
        f"next time: --new-since {facts['next_number']}"
    )
    return 0


def _show(groups: Iterable[Group]) -> None:
    for group, items in groups:
        print(f"group {group}: {_count(len(items), 'item')}\n  bits  id")
        for item in items[:SHOWN]:
            print(f"{item['distance']:6}  {item['id']}")
        if len(items) > SHOWN:
            print(f"        and {len(items) - SHOWN:,} more")
        print()


def _draw(path: str, index: "Index", groups: Iterable[Group]) -> None:
    from kdhash.retrieval.contact_sheet import Picture, draw_groups

    drawn = []
    for group, items in groups:
        some = f", the first {ON_SHEET} of them" if len(items) > ON_SHEET else ""
        pictures = [
            Picture(index.thumbnail(item["number"]), item["id"], _count(item["distance"], "bit"))
            for item in items[:ON_SHEET]
        ]
        drawn.append((f"group {group}: {_count(len(items), 'item')}{some}", pictures))
    sheet = draw_groups(drawn or [("no near duplicates", [])])
    with replacing(path) as temporary:
        sheet.save(temporary)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
