"""results.json, table.md, the figures, and one page that holds them all and needs nothing else."""

import base64
import html
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from kdhash.report import figures, pairs
from kdhash.report.tables import columns_of, table_html, table_markdown

STYLE = """
:root{color-scheme:light dark;--text:#1c1f23;--soft:#5b6470;--line:#d9dee4;--page:#fff;--yes:#007a56;--no:#b34700;--tint:#f4f6f8}
@media(prefers-color-scheme:dark){:root{--text:#e8eaed;--soft:#a3acb8;--line:#3a414a;--page:#15181c;--yes:#4cc9a0;--no:#ff9a5c;--tint:#1e2329}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--text);font:16px/1.5 system-ui,sans-serif}
main{max-width:62rem;margin:auto;padding:2rem 1.2rem 4rem}h1{font-size:1.7rem;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.4rem 0 .4rem}
p{margin:.4rem 0}.lead{font-size:1.1rem}.soft{color:var(--soft);font-size:.92rem}.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem;width:100%}th,td{padding:.28rem .55rem;text-align:right;white-space:nowrap}
th:first-child{text-align:left;font-weight:400}thead th{border-bottom:2px solid var(--line);font-weight:600}tr.group th{padding-top:.9rem;font-weight:600;color:var(--soft)}
tbody tr:not(.group):hover{background:var(--tint)}.best{font-weight:700}img{max-width:100%;height:auto;background:#fff;border-radius:6px}
ul.claims{list-style:none;padding:0}ul.claims li{padding:.45rem .7rem;margin:.35rem 0;background:var(--tint);border-left:4px solid var(--no)}
ul.claims li.holds{border-color:var(--yes)}.mark{font-weight:700;color:var(--no)}.holds .mark{color:var(--yes)}
code,pre{font:.88rem/1.5 ui-monospace,monospace;overflow-wrap:anywhere;white-space:pre-wrap}dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
@media print{main{max-width:none}h2,img{break-inside:avoid}}
"""


def write_report(results: dict[str, Any], arrays: dict[str, Any], out_dir: str | Path) -> Path:
    """Writes results.json, table.md, PNG figures and report.html into `out_dir`; returns the path of the page.

    `results` is what JSON can hold (NaN becomes null), its 'labels_note' what must stand beside every number; `arrays` may hold
    radius_curves, precision_at, attention, retrieval_grid (a list), pairs, clusters, masks, training: a missing one leaves its section
    out. Every file is written to a temporary name, then renamed.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    sections = _sections(results, arrays)
    _write(out_dir / "results.json", json.dumps(_finite(results), indent=1, allow_nan=False).encode())
    _write(out_dir / "table.md", table_markdown(results).encode())
    for name, _, _, png in sections:
        _write(out_dir / f"{name}.png", png)
    _write(out_dir / "report.html", _page(results, sections).encode())
    return out_dir / "report.html"


def _sections(results: dict[str, Any], arrays: dict[str, Any]) -> list[tuple[str, str, str, bytes]]:
    """(file name, heading, explanation, PNG) of every figure that there is data for."""
    rows, sections = results["rows"], []
    if arrays.get("radius_curves"):
        text = "Each line walks from the strictest search (Hamming radius 0, left) to the loosest (all bits, right). Higher is better."
        png = figures.precision_recall(rows, arrays["radius_curves"])
        sections.append(("precision_recall", "Precision and recall", text, png))
    if arrays.get("precision_at"):
        text = "Of the first N results, the share that shows the query's class."
        sections.append(
            (
                "precision_at_n",
                "Precision of the first N results",
                text,
                figures.precision_at(rows, arrays["precision_at"]),
            )
        )
    if arrays.get("attention"):
        text = "Mean attention weight of each teacher over the queries of a class: which teacher is trusted for what."
        sections.append(
            ("attention", "Which teacher is trusted for what", text, figures.attention(arrays["attention"]))
        )
    for i, grid in enumerate(arrays.get("retrieval_grid") or []):
        text = "Left, queries drawn at random, one a class; right, its ten nearest codes, with their Hamming distance. ✓ same class, ✗ another one."
        png = figures.retrieval_grid(grid, results["class_names"])
        sections.append((f"retrieved_{i + 1}", f"What is found: {grid['row']}", text, png))
    if arrays.get("clusters"):
        text = "What each count of clusters of the teacher's codes gives: the elbow of the inertia is taken."
        sections.append(("clusters", "How many clusters", text, figures.cluster_counts(arrays["clusters"])))
    if arrays.get("masks"):
        text = "Left, the share of bits that a cluster's mask keeps against its margin, a line each."
        if arrays["masks"].get("study_margins"):
            seed = (results.get("seeds") or [results["seed"]])[0]
            text += f" Right, the validation mAP@1000 of the student 'brcd' of seed {seed} with this margin: one seed, not the queries."
        sections.append(("masks", "Bit masks", text, figures.masks(arrays["masks"])))
    if arrays.get("pairs"):
        found, marks = (
            arrays["pairs"],
            "★ the query's own, ✓ a label in common, ✗ none; behind it the Hamming distance.",
        )
        text = f"Captions drawn at random, and the pictures nearest to them. {marks}"
        png = pairs.text_to_image(found["text_to_image"])
        sections.append(("text_to_image", f"Pictures found by a text: {found['row']}", text, png))
        text = f"Their pictures, and the captions nearest to them. {marks}"
        png = pairs.image_to_text(found["image_to_text"])
        sections.append(("image_to_text", f"Texts found by a picture: {found['row']}", text, png))
    if arrays.get("training"):
        text = "Left, the loss; right, the score of pictures held out of training, by which the checkpoint is chosen."
        sections.append(("training", "Training of the students", text, figures.training(arrays["training"])))
    return sections


def _page(results: dict[str, Any], sections: list[tuple[str, str, str, bytes]]) -> str:
    title = html.escape(results["title"])
    body = [
        f"<h1>{title}</h1><p class='lead'>{html.escape(_summary(results))}</p>",
        f"<p>{html.escape(results['labels_note'])}</p>" if results.get("labels_note") else "",
        _claims(results.get("claims") or []),
        "<h2>Comparison</h2><p class='soft'>mAP and precision from 0 to 1, larger is better; the best of each group in bold. "
        "Encode: milliseconds an image through the networks, in full batches.</p>"
        f"<div class='wide'>{table_html(results)}</div>",
    ]
    for _, heading, text, png in sections:
        image = base64.b64encode(png).decode()
        body.append(
            f"<h2>{html.escape(heading)}</h2><p class='soft'>{html.escape(text)}</p>"
            f"<img alt='{html.escape(heading, quote=True)}' src='data:image/png;base64,{image}'>"
        )
    body.append(_provenance(results))
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{title}</title><style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>"
    )


def _summary(results: dict[str, Any]) -> str:
    """One sentence from the numbers: the best student, against the best teacher, by the table's first column."""
    column = next(
        (one for one in columns_of(results) if any(one.get(row) is not None for row in results["rows"])), None
    )
    if column is None:
        return f"{len(results['rows'])} rows."

    def best(groups: tuple[str, ...]) -> dict[str, Any] | None:
        rows = [row for row in results["rows"] if row["group"] in groups]
        return max(rows, key=lambda row: column.get(row) or 0, default=None)

    student, teacher = best(("student",)), best(("teacher", "fusion"))
    if student is None or teacher is None:
        return f"{len(results['rows'])} rows compared."
    score, ceiling = (column.get(row) or 0 for row in (student, teacher))
    name = student["name"].removeprefix("student, ")
    text = (
        f"The best student ({name}) reaches {column.name} {score:.4f} with {results['bits']} bits a picture"
    )
    if ceiling:
        text += f", {100 * score / ceiling:.1f} % of the best teacher ({teacher['name']}, {ceiling:.4f})"
    if student.get("encode_ms") and teacher.get("encode_ms"):
        text += f", encoding {teacher['encode_ms'] / student['encode_ms']:.0f} times faster"
    return text + "."


def _claims(claims: list[dict[str, Any]]) -> str:
    if not claims:
        return ""
    items = "".join(
        f"<li class='{'holds' if claim['holds'] else ''}'><span class='mark'>{'✓ holds' if claim['holds'] else '✗ does not hold'}</span> "
        f"{html.escape(claim['claim'])}.<br><span class='soft'>{html.escape(claim['measured'])}</span></li>"
        for claim in claims
    )
    return f"<h2>The paper's claims, as measured here</h2><ul class='claims'>{items}</ul>"


def _provenance(results: dict[str, Any]) -> str:
    protocol, machine = results["protocol"], results["machine"]
    counts = ", ".join(f"{protocol[part]:,} {part}" for part in ("query", "database", "train", "validation"))
    spent = ", ".join(f"{stage} {seconds:,.0f} s" for stage, seconds in results["seconds"].items())
    facts = {
        "command": results.get("command") or "",
        "data set": results["dataset"],
        "protocol": f"{protocol['name']} (seed {protocol['seed']}): {counts}",
        "split checksum": protocol["checksum"],
        "seed": ", ".join(map(str, results.get("seeds") or [results["seed"]])),
        "machine": ", ".join(f"{name} {value}" for name, value in machine.items()),
        "time": spent,
        "ties": "mAP is the exact expectation over all orders of items at equal distance; AP@k divides by the hits among the first k",
    }
    items = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items()
    )
    return f"<h2>How this was measured</h2><dl>{items}</dl>"


def _finite(value: Any) -> Any:
    """The value with arrays as lists and NaN or infinity as None, as JSON can hold it."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
