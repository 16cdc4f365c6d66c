"""The comparison as a table: for a terminal, for Markdown, for the page."""

import html
import math
from typing import Any

GROUPS = {
    "teacher": "Single teachers, each with its own hash head",
    "fusion": "Fused teachers",
    "student": "Students",
    "float": "Exact search on float features (upper line)",
    "fitted": "Fitted without labels (lower line)",
}
# heading, how to get the value from a row, format, whether larger is better (None: no best)
COLUMNS: list[tuple[str, Any, str, bool | None]] = [
    ("mAP@all", lambda row: row["metrics"].get("map@all"), "{:.4f}", True),
    ("mAP@1000", lambda row: row["metrics"].get("map@1000"), "{:.4f}", True),
    ("P@100", lambda row: row["metrics"].get("precision@100"), "{:.4f}", True),
    ("P r≤2", lambda row: row["metrics"].get("precision_radius2"), "{:.4f}", True),
    ("encode ms", lambda row: row.get("encode_ms"), "{:.3f}", None),
    ("parameters", lambda row: row.get("parameters"), "{:,}", None),
    ("train s", lambda row: row.get("seconds"), "{:,.0f}", None),
]
MISSING = "–"


def table_text(results: dict[str, Any]) -> str:
    """Aligned columns for a terminal, grouped; mAP and precision in 0-1, the best of each group marked with *."""
    width = max(len(row["name"]) for row in results["rows"]) + 2
    lines = [f"{results['title']}, protocol {results['protocol']['name']}", ""]
    lines.append(" " * width + "".join(f"{name:>12}" for name, *_ in COLUMNS))
    for group, rows in grouped(results):
        lines.append(GROUPS[group])
        best = best_of(rows)
        for row in rows:
            cells = [
                text + ("*" if best.get(column) == id(row) else " ")
                for column, text in zip((name for name, *_ in COLUMNS), cells_of(row), strict=True)
            ]
            lines.append(f"  {row['name']:<{width - 2}}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def table_markdown(results: dict[str, Any]) -> str:
    """The same as a Markdown table, the best of each group in bold."""
    lines = ["| row | " + " | ".join(name for name, *_ in COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for group, rows in grouped(results):
        lines.append(f"| *{GROUPS[group]}* |" + " |" * len(COLUMNS))
        best = best_of(rows)
        for row in rows:
            cells = [
                f"**{text}**" if best.get(column) == id(row) else text
                for column, text in zip((name for name, *_ in COLUMNS), cells_of(row), strict=True)
            ]
            lines.append(f"| {row['name'].replace('|', '/')} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def table_html(results: dict[str, Any]) -> str:
    """The same as an HTML table; notes of rows as titles."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name, *_ in COLUMNS)
    body = []
    for group, rows in grouped(results):
        body.append(
            f'<tr class="group"><th colspan="{len(COLUMNS) + 1}">{html.escape(GROUPS[group])}</th></tr>'
        )
        best = best_of(rows)
        for row in rows:
            cells = "".join(
                f'<td class="best">{text}</td>' if best.get(column) == id(row) else f"<td>{text}</td>"
                for column, text in zip((name for name, *_ in COLUMNS), cells_of(row), strict=True)
            )
            note = html.escape(row.get("note") or "", quote=True)
            body.append(f'<tr><th title="{note}">{html.escape(row["name"])}</th>{cells}</tr>')
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def grouped(results: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows by group, in the order of GROUPS; empty groups are left out."""
    parts = [(group, [row for row in results["rows"] if row["group"] == group]) for group in GROUPS]
    return [(group, rows) for group, rows in parts if rows]


def cells_of(row: dict[str, Any]) -> list[str]:
    """The row's values as text; a missing or non-finite one as a dash."""
    return [
        form.format(value)
        if isinstance(value := get(row), (int, float)) and math.isfinite(value)
        else MISSING
        for _, get, form, _ in COLUMNS
    ]


def best_of(rows: list[dict[str, Any]]) -> dict[str, int]:
    """{column: id of the row with its largest value}, for columns where larger is better and rows to compare with."""
    best = {}
    for name, get, _, larger in COLUMNS:
        values = [(get(row), row) for row in rows if isinstance(get(row), float) and math.isfinite(get(row))]
        if larger and len(values) > 1:
            best[name] = id(max(values, key=lambda pair: pair[0])[1])
    return best
