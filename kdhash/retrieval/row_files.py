"""Files of result rows, .jsonl or .csv, that appear when they are complete."""

import contextlib
import csv
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SUFFIXES = (".jsonl", ".csv")


def write_rows(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes rows, one at a time, as their name's suffix says; returns how many. Nothing is left behind where `rows` fails."""
    written = 0
    with replacing(path) as temporary, open(temporary, "x", encoding="utf-8", newline="") as file:
        if str(path).lower().endswith(".csv"):
            table = csv.DictWriter(file, columns)
            table.writeheader()
            for row in rows:
                table.writerow(row)
                written += 1
        else:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                written += 1
    return written


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """The name of a file to write, which takes the place of `path` at the end, if all goes well."""
    target = Path(path)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        yield Path(folder, target.name)
        os.replace(Path(folder, target.name), target)
