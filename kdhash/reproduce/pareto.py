"""mAP@all against what a picture costs: teachers and students of 64 bits on cifar10-2."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from kdhash.report.figures import COLORS, png
from kdhash.reproduce.pooled import Document, Row, pool

# By the protocol's name and the bits, of the tables that share pictures, queries and teachers.
TABLES, PROTOCOL, BITS = ("dmth-resnets", "beyond"), "cifar10-2", 64
COSTS = {
    "relative": "encode time, in multiples of the fused teacher's in the same run",
    "multiply_adds": "multiply-adds a picture, in multiples of the fused teacher's",
}


class Point(NamedTuple):
    name: str
    group: str  # 'teacher', 'fusion' or 'student'
    score: float
    costs: dict[str, float]


def points_of(documents: Sequence[Document]) -> list[Point]:
    """One a row and group of runs, of those with a score and both costs; teachers, which all groups share, once."""
    wanted = [one for one in documents if one["protocol"]["name"] == PROTOCOL and one["bits"] == BITS]
    found: dict[tuple[str, str], Point] = {}
    for group in dict.fromkeys(one["group"] for one in wanted):
        rows = pool([one for one in wanted if one["group"] == group], "attention")
        for row in rows.values():
            if row.group in ("teacher", "fusion", "student") and set(COSTS) <= set(row.costs):
                label = (
                    f"{group}, {row.name.removeprefix('student, ')}" if row.group == "student" else row.name
                )
                found.setdefault((row.group, label), _point(row, label, rows["attention"]))
    return list(found.values())


def _point(row: Row, label: str, fused: Row) -> Point:
    costs = {name: float(np.mean(row.costs[name])) for name in COSTS}
    costs["multiply_adds"] /= float(np.mean(fused.costs["multiply_adds"]))
    return Point(label, row.group, float(np.mean(row.metrics["map@all"])), costs)


def front(points: Sequence[Point], cost: str) -> list[Point]:
    """Those that no cheaper point equals or beats, from cheap to dear."""
    best, kept = -np.inf, []
    for point in sorted(points, key=lambda one: (one.costs[cost], -one.score)):
        if point.score > best:
            best = point.score
            kept.append(point)
    return kept


def figure(points: Sequence[Point]) -> bytes:
    """Two panels, one a cost: a dot a row, the front as a line with its names beside."""
    drawn = Figure(figsize=(12, 5.2), layout="constrained")
    for axes, (cost, label) in zip(drawn.subplots(1, 2, sharey=True), COSTS.items(), strict=True):
        for group in ("teacher", "fusion", "student"):
            of = [point for point in points if point.group == group]
            axes.scatter(
                [point.costs[cost] for point in of],
                [point.score for point in of],
                color=COLORS[group],
                label=group,
                s=28,
            )
        line = front(points, cost)
        axes.plot(
            [point.costs[cost] for point in line],
            [point.score for point in line],
            color="#333333",
            linewidth=1,
            zorder=0,
        )
        for point, dearer in zip(line, [*line[1:], None], strict=True):
            if dearer and dearer.costs[cost] < 1.02 * point.costs[cost]:
                continue  # one name where several stand on one another
            left = point.costs[cost] > 0.4
            # above the line where dearer rows stand right below it
            crowded = any(
                other.costs[cost] > point.costs[cost] and 0 < point.score - other.score < 0.03
                for other in points
            )
            axes.annotate(
                point.name,
                (point.costs[cost], point.score),
                fontsize=7,
                xytext=(-4 if left else 5, 5 if left else 18 if crowded else -9),
                textcoords="offset points",
                ha="right" if left else "left",
            )
        axes.margins(y=0.1)
        axes.set(xscale="log", xlabel=label)
        axes.xaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5, 1]))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    drawn.axes[0].set(ylabel="mAP@all")
    drawn.axes[1].legend(frameon=False, loc="lower right")
    return png(drawn)
