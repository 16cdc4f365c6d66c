"""The comparison as a table: for a terminal, for Markdown, for the page."""

import html
import math
from collections.abc import Callable
from typing import Any, NamedTuple

GROUPS = {
    "teacher": "Single teachers, each with its own hash head",
    "fusion": "Fused teachers",
    "student": "Students",
    "float": "Exact search on float features (upper line)",
    "fitted": "Fitted without labels (lower line)",
}


class Column(NamedTuple):
    """heading; how to get the value from a row; format; whether larger is better (None: no best); how to get its deviation."""

    name: str
    get: Callable[[dict[str, Any]], Any]
    form: str
    larger: bool | None = None
    spread: Callable[[dict[str, Any]], Any] = lambda row: None


def _metric(heading: str, name: str) -> Column:
    return Column(
        heading,
        lambda row: row["metrics"].get(name),
        "{:.4f}",
        True,
        lambda row: row.get("deviation", {}).get(name),
    )


COSTS = (
    Column("encode ms", lambda row: row.get("encode_ms"), "{:.3f}"),
    Column("parameters", lambda row: row.get("parameters"), "{:,}"),
    Column("M mult-adds", lambda row: _millions(row.get("multiply_adds")), "{:,.1f}"),
    Column("train s", lambda row: row.get("seconds"), "{:,.0f}"),
)
COLUMNS: dict[str, tuple[Column, ...]] = {  # by method
    "dmth": (
        _metric("mAP@all", "map@all"),
        _metric("mAP@1000", "map@1000"),
        _metric("P@100", "precision@100"),
        _metric("P r≤2", "precision_radius2"),
        *COSTS,
    ),
    "brcd": (
        _metric("mAP@1000", "map@1000"),
        _metric("asymmetric", "asymmetric map@1000"),
        _metric("stable ties", "map@1000_stable"),
        _metric("mAP@all", "map@all"),
        _metric("asymmetric", "asymmetric map@all"),
        _metric("validation", "validation"),
        *COSTS,
    ),
    "kdcmh": (
        _metric("I→T mAP@50", "i2t map@50"),
        _metric("T→I mAP@50", "t2i map@50"),
        _metric("I→T mAP@all", "i2t map@all"),
        _metric("T→I mAP@all", "t2i map@all"),
        *(
            _metric(f"{arrow} R@{k}", f"{direction} recall@{k}")
            for arrow, direction in (("I→T", "i2t"), ("T→I", "t2i"))
            for k in (1, 5, 10)
        ),
        _metric("validation", "validation"),
        COSTS[0],
        Column("text ms", lambda row: row.get("text_ms"), "{:.3f}"),
        *COSTS[1:],
    ),
}
MISSING = "–"


def table_text(results: dict[str, Any]) -> str:
    """Aligned columns for a terminal, grouped, under what is to be said of the labels; mAP and precision in 0-1, the best of each
    group marked with *."""
    columns = columns_of(results)
    width = max(len(row["name"]) for row in results["rows"]) + 2
    cell = 18 if any(row.get("deviation") for row in results["rows"]) else 12
    lines = [f"{results['title']}, protocol {results['protocol']['name']}"]
    lines += [results["labels_note"]] if results.get("labels_note") else []
    lines.append("")
    lines.append(" " * width + "".join(f"{column.name:>{cell}}" for column in columns))
    for group, rows in grouped(results):
        lines.append(heading_of(results, group))
        best = best_of(rows, columns)
        for row in rows:
            cells = [
                text + ("*" if best.get(place) == id(row) else " ")
                for place, text in enumerate(cells_of(row, columns))
            ]
            lines.append(f"  {row['name']:<{width - 2}}" + "".join(f"{text:>{cell}}" for text in cells))
    return "\n".join(lines)


def table_markdown(results: dict[str, Any]) -> str:
    """The same as a Markdown table, the best of each group in bold, under what is to be said of the labels."""
    columns = columns_of(results)
    lines = [
        *([results["labels_note"], ""] if results.get("labels_note") else []),
        "| row | " + " | ".join(column.name for column in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for group, rows in grouped(results):
        lines.append(f"| *{heading_of(results, group)}* |" + " |" * len(columns))
        best = best_of(rows, columns)
        for row in rows:
            cells = [
                f"**{text}**" if best.get(place) == id(row) else text
                for place, text in enumerate(cells_of(row, columns))
            ]
            lines.append(f"| {row['name'].replace('|', '/')} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def table_html(results: dict[str, Any]) -> str:
    """The same as an HTML table; notes of rows as titles."""
    columns = columns_of(results)
    head = "".join(f"<th>{html.escape(column.name)}</th>" for column in columns)
    body = []
    for group, rows in grouped(results):
        body.append(
            f'<tr class="group"><th colspan="{len(columns) + 1}">{html.escape(heading_of(results, group))}</th></tr>'
        )
        best = best_of(rows, columns)
        for row in rows:
            cells = "".join(
                f'<td class="best">{text}</td>' if best.get(place) == id(row) else f"<td>{text}</td>"
                for place, text in enumerate(cells_of(row, columns))
            )
            note = html.escape(row.get("note") or "", quote=True)
            body.append(f'<tr><th title="{note}">{html.escape(row["name"])}</th>{cells}</tr>')
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def columns_of(results: dict[str, Any]) -> tuple[Column, ...]:
    """The columns of the run's method."""
    return COLUMNS[results["method"]]


def heading_of(results: dict[str, Any], group: str) -> str:
    """Of a group of rows. Only DMTH has several teachers."""
    return "Teacher" if group == "teacher" and results["method"] != "dmth" else GROUPS[group]


def grouped(results: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows by group, in the order of GROUPS; empty groups are left out."""
    parts = [(group, [row for row in results["rows"] if row["group"] == group]) for group in GROUPS]
    return [(group, rows) for group, rows in parts if rows]


def cells_of(row: dict[str, Any], columns: tuple[Column, ...]) -> list[str]:
    """The row's values as text, with their deviation over seeds where there is one; a missing or non-finite one as a dash."""
    cells = []
    for column in columns:
        value, spread = column.get(row), column.spread(row)
        cell = column.form.format(value) if _is_number(value) else MISSING
        cells.append(f"{cell} ± {column.form.format(spread)}" if _is_number(spread) else cell)
    return cells


def best_of(rows: list[dict[str, Any]], columns: tuple[Column, ...]) -> dict[int, int]:
    """{place of the column: id of the row with its largest value}, where larger is better and there are rows to compare."""
    best = {}
    for place, column in enumerate(columns):
        values = [(column.get(row), row) for row in rows if _is_number(column.get(row))]
        if column.larger and len(values) > 1:
            best[place] = id(max(values, key=lambda pair: pair[0])[1])
    return best


def _millions(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
