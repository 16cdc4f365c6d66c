"""`kdhash index export`: arguments and messages."""

import argparse
import json
import sys
import time
from typing import Any

EXAMPLES = """examples:
  kdhash index export photos.index --engine clickhouse --to codes.chdb --table photos
  kdhash index export photos.index --engine clickhouse --to https://me@host:8443/default --table photos
  kdhash index export photos.index --engine postgres --to postgresql://me@host/db --table photos
  kdhash index export photos.index --engine postgres --to postgresql://me@host/db --table photos --update
"""


def add_export_parser(actions: Any) -> None:
    """Adds the action `export` to those of `kdhash index`, with `run` as the default of the attribute `run`."""
    parser = actions.add_parser(
        "export",
        help="load an index into a table of ClickHouse or PostgreSQL",
        description="Load the codes, ids and metadata of an index into a table, where SQL and the same Python calls search them. "
        "Passwords: CLICKHOUSE_PASSWORD; for PostgreSQL PGPASSWORD or ~/.pgpass.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("index", metavar="INDEX")
    parser.add_argument("--engine", required=True, choices=["clickhouse", "postgres"])
    parser.add_argument(
        "--to",
        required=True,
        metavar="WHERE",
        help="a folder (ClickHouse in this process), or an address of a server",
    )
    parser.add_argument(
        "--table", required=True, metavar="T", help="letters, digits and _; must not be there yet"
    )
    parser.add_argument(
        "--update",
        action="store_true",
        help="the table is there: add the items that it does not have, delete those that the index no longer has",
    )
    parser.add_argument(
        "--columns", nargs="+", metavar="NAME", help="metadata columns beside id (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carries out parsed arguments: 0, or 2 after a line on standard error that says what to do."""
    try:
        return _export(args)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError) as error:
        print(f"kdhash: {error}", file=sys.stderr)
        return 2


def _export(args: argparse.Namespace) -> int:
    from kdhash.progress import Progress
    from kdhash.retrieval.engines import connect_engine, make_engine
    from kdhash.retrieval.engines.export import export_index
    from kdhash.retrieval.index import open_index

    if args.update and args.columns:
        raise ValueError(
            "--columns: the table of an earlier export has its columns; leave out --columns or --update"
        )
    index = open_index(args.index)
    started = time.perf_counter()
    engine: Any
    if args.update:
        engine = connect_engine(args.engine, args.to, args.table)
        args.columns = engine.columns
    else:
        engine = make_engine(args.engine, index.bits, at=args.to, table=args.table, model=index.model)
    try:
        with Progress("export", len(index), "items") as shown:
            done = export_index(
                index, engine, columns=args.columns, progress=lambda seen, _: shown.update(seen)
            )
        facts = {
            "index": args.index,
            "engine": args.engine,
            "to": engine.at,
            "table": args.table,
            **done._asdict(),
            "count": engine.count(),
            "seconds": time.perf_counter() - started,
        }
    finally:
        engine.close()
    line = (
        f"{args.table}: {done.added:,} items added, {done.deleted:,} deleted, {facts['count']:,} in the table; "
        f"{facts['seconds']:.1f} s"
    )
    print(json.dumps(facts, indent=1, ensure_ascii=False) if args.json else line)
    return 0
