"""Pages: what stands between their markers is written from the files of results/, the words around them by hand."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from kdhash.reproduce.plan import planned
from kdhash.reproduce.pooled import Document, Row, Value, difference, of_group, pool, value_of

NOT_RUN = "not run"
NOTHING = "*Not run yet.*"
HOLDS = "**holds**"
MARKER = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADINGS = {
    "teacher": "Teachers",
    "fusion": "Fused teachers",
    "student": "Students",
    "float": "Exact search on float features",
    "fitted": "Fitted without labels",
}


class Column(NamedTuple):
    """One metric of the runs of a group."""

    heading: str
    group: str
    metric: str


class Claim(NamedTuple):
    """That a row is ahead of another by more than `points` hundredths. Of several rows `one` is the best by validation, `other`
    the best by the metric itself, which is in its favour."""

    text: str
    group: str
    one: Callable[[dict[str, Row]], list[Row]]
    other: Callable[[dict[str, Row]], list[Row]]
    metric: str
    points: float = 0.0


def named(*names: str) -> Callable[[dict[str, Row]], list[Row]]:
    return lambda rows: [rows[name] for name in names if name in rows]


def fill(text: str, blocks: dict[str, Callable[[], str]]) -> str:
    """`text` with what its markers name between them. Raises ValueError for a marker that none of `blocks` answers."""

    def filled(match: re.Match) -> str:
        start, name, end = match.groups()
        if name not in blocks:
            raise ValueError(f"marker {name!r} is unknown; there are {', '.join(blocks)}")
        return f"{start}{blocks[name]().strip()}\n{end}"

    return MARKER.sub(filled, text)


def scores(
    documents: Sequence[Document],
    columns: Sequence[Column],
    *,
    costs: str = "",
    reference: str = "",
    groups: Sequence[str] = tuple(HEADINGS),
) -> str:
    """A row for each row of the runs, a column for each of `columns`; and what a picture costs in the runs of the group `costs`:
    parameters, multiply-adds, and the encode time in multiples of the row `reference`. A group that was not run says so."""
    pools = {column.group: pool(of_group(documents, column.group), reference) for column in columns}
    if costs:
        pools.setdefault(costs, pool(of_group(documents, costs), reference))
    names = {(row.group, name): None for rows in pools.values() for name, row in rows.items()}
    if not names:
        return NOTHING
    heads = [f"{column.heading}{_seeds(pools[column.group])}" for column in columns]
    more = ["parameters", "M mult.-adds", "encode time"] if costs else []
    lines = ["| row | " + " | ".join(heads + more) + " |", "|---|" + "---:|" * (len(heads) + len(more))]
    for group in groups:
        members = [name for kind, name in names if kind == group]
        if not members:
            continue
        lines.append(f"| *{HEADINGS[group]}* |" + " |" * (len(heads) + len(more)))
        cells = [_column(pools[column.group], members, column.metric) for column in columns]
        if costs:
            cells += _costs(pools[costs], members)
        lines += [
            f"| {name} | " + " | ".join(each[place] for each in cells) + " |"
            for place, name in enumerate(members)
        ]
    return "\n".join(lines)


def claims(documents: Sequence[Document], asked: Sequence[Claim]) -> str:
    """A line for each claim: what was measured, and whether it holds beyond the seeds' deviation."""
    if not any(of_group(documents, claim.group) for claim in asked):
        return NOTHING
    lines = ["| claim | measured | points | claimed | |", "|---|---|---:|---:|---|"]
    for claim in asked:
        wanted = f"> {claim.points:g}"
        pair = compared(documents, claim)
        if not pair:
            lines.append(f"| {claim.text} | {NOT_RUN} | | {wanted} | |")
            continue
        gain = difference(*pair, claim.metric)
        measured = "; ".join(f"{row.name} {_text(value_of(row.metrics[claim.metric]))}" for row in pair)
        lines.append(
            f"| {claim.text} | {measured} | {_points(gain)} | {wanted} | {verdict(gain, claim.points / 100)} |"
        )
    return "\n".join(lines)


def claims_by_group(
    documents: Sequence[Document], asked: Callable[[str], list[Claim]], groups: dict[str, str]
) -> str:
    """A line for each claim that `asked` makes of a group, a column for each of `groups` (heading: group): by how many points
    one row is ahead of the other, in bold where that holds beyond the seeds' deviation. Claims that no group can answer are left
    out."""
    lines = ["| claim | " + " | ".join(groups) + " |", "|---|" + "---:|" * len(groups)]
    for same in zip(*(asked(group) for group in groups.values()), strict=True):
        pairs = [compared(documents, claim) for claim in same]
        if not any(pairs):
            continue
        cells = []
        for claim, pair in zip(same, pairs, strict=True):
            gain = difference(*pair, claim.metric) if pair else None
            holds = gain and verdict(gain, claim.points / 100) == HOLDS
            told = _points(gain) if gain else NOT_RUN if not of_group(documents, claim.group) else "–"
            cells.append(f"**{told}**" if holds else told)
        wanted = f" (> {same[0].points:g})" if same[0].points else ""
        lines.append(f"| {same[0].text}{wanted} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else NOTHING


def compared(documents: Sequence[Document], claim: Claim) -> tuple[Row, Row] | None:
    """The two rows of the claim's group that it compares; None where one was not run."""
    rows = pool(of_group(documents, claim.group))
    ones, others = (
        [row for row in pick(rows) if claim.metric in row.metrics] for pick in (claim.one, claim.other)
    )
    if not ones or not others:
        return None
    one = max(ones, key=lambda row: _mean(row, "validation"))
    return one, max(others, key=lambda row: _mean(row, claim.metric))


def verdict(gain: Value, wanted: float) -> str:
    """Whether a gain is above what is wanted, by more than the seeds' deviation."""
    if gain.seeds < 2:
        return ("yes" if gain.mean > wanted else "no") + " (one seed)"
    if abs(gain.mean - wanted) <= gain.deviation:
        return "within the deviation"
    return HOLDS if gain.mean > wanted else "**does not hold**"


def runs(table: str, documents: Sequence[Document]) -> str:
    """What was run, on what: a line a group of seeds, and the first run's command line."""
    if not documents:
        return NOTHING
    found = {one["group"]: of_group(documents, one["group"]) for one in documents}
    lines = [
        "| runs | data, protocol | query, database, training | bits | seeds | on | seconds a run |",
        "|---|---|---|---:|---|---|---:|",
    ]
    order = dict.fromkeys(run.group for run in planned(table))
    for group in order:
        each = found.get(group, [])
        if not each:
            lines.append(f"| `{group}` | {NOT_RUN} | | | | | |")
            continue
        first, protocol = each[0], each[0]["protocol"]
        sizes = ", ".join(f"{protocol[part]:,}" for part in ("query", "database", "train"))
        seeds = ", ".join(str(seed) for one in each for seed in one["seeds"])
        where = "; ".join(dict.fromkeys(_machine(one) for one in each))
        seconds = np.mean([sum(one["seconds"].values()) for one in each])
        lines.append(
            f"| `{group}` | {first['dataset']}, {protocol['name']} (`{protocol['checksum'][:8]}`) | {sizes} | "
            f"{first['bits']} | {seeds} | {where} | {seconds:,.0f} |"
        )
    lines += ["", "The first of them by hand (those of all runs are in their files):", ""]
    lines += ["    " + _broken(next(found[group][0] for group in order if group in found)["command"])]
    return "\n".join(lines)


def _machine(one: Document) -> str:
    machine = one["machine"]
    device = "CPU" if machine["device"] == "cpu" else machine["device"]
    beside = f", {machine['runs_beside']} beside" if machine["runs_beside"] else ""
    return f"{device} ({machine['processor']}; JAX {machine['jax']}, kdhash {one['kdhash']}{beside})"


def _broken(text: str, width: int = 120) -> str:
    """A command line over several lines."""
    lines: list[str] = []
    line = ""
    for word in text.split(" --"):
        word = word if not lines and not line else f"--{word}"
        if line and len(line) + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return " \\\n        ".join([*lines, line])


def _column(rows: dict[str, Row], members: Sequence[str], metric: str) -> list[str]:
    if not rows:
        return [NOT_RUN] * len(members)
    found = {
        name: rows[name].metrics[metric] for name in members if name in rows and metric in rows[name].metrics
    }
    best = max(found, key=lambda name: np.mean(found[name]), default="") if len(found) > 1 else ""
    cells = {name: cell(values) for name, values in found.items()}
    return [f"**{cells[name]}**" if name == best else cells.get(name, "–") for name in members]


def _costs(rows: dict[str, Row], members: Sequence[str]) -> list[list[str]]:
    forms = {"parameters": (1, "{:,.0f}"), "multiply_adds": (1e-6, "{:,.1f}"), "relative": (1, "{:.2f}")}

    def of_cost(name: str, cost: str) -> str:
        scale, form = forms[cost]
        values = rows[name].costs.get(cost, []) if name in rows else []
        return form.format(scale * np.mean(values)) if values else "–"

    return [[of_cost(name, cost) for name in members] for cost in forms]


def _seeds(rows: dict[str, Row]) -> str:
    """How many seeds there are, as '(3)'."""
    counts = {len(values) for row in rows.values() for values in list(row.metrics.values())[:1]}
    return f" ({max(counts)})" if counts else ""


def cell(values: Sequence[float]) -> str:
    """Mean, and deviation where there are several seeds."""
    return _text(value_of(values))


def _text(value: Value, form: str = "{:.4f}", spread: str = "{:.4f}") -> str:
    mean = form.format(value.mean)
    return f"{mean} ± {spread.format(value.deviation)}" if value.seeds > 1 else mean


def _points(gain: Value) -> str:
    """A difference in hundredths, with its sign."""
    return _text(Value(100 * gain.mean, 100 * gain.deviation, gain.seeds), "{:+.2f}", "{:.2f}")


def _mean(row: Row, metric: str) -> float:
    return float(np.mean(row.metrics[metric])) if row.metrics.get(metric) else -np.inf
