"""Figures as PNG bytes. Colours tell groups apart and are safe for the colour-blind (Okabe and Ito)."""

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

COLORS = {
    "teacher": "#56B4E9",
    "fusion": "#0072B2",
    "student": "#D55E00",
    "float": "#000000",
    "fitted": "#999999",
}
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"]
RIGHT, WRONG = "#009E73", "#D55E00"
STYLES = ["-", "--", "-.", ":", (0, (1, 3)), (0, (5, 1, 1, 1, 1, 1))]


def precision_recall(rows: list[dict[str, Any]], curves: dict[str, dict[str, np.ndarray]]) -> bytes:
    """One line a row: precision against recall as the Hamming radius grows from 0 to all bits."""
    figure, axes = _figure("recall", "precision")
    for name, color, style, width in _lines(rows, curves):
        axes.plot(
            curves[name]["recall"],
            curves[name]["precision"],
            color=color,
            linestyle=style,
            linewidth=width,
            label=name,
        )
    axes.set(xlim=(0, 1.0), ylim=(None, 1.005))
    return _with_legend(figure, axes)


def precision_at(rows: list[dict[str, Any]], curves: dict[str, Any]) -> bytes:
    """One line a row: precision among the first N results."""
    figure, axes = _figure("N, results looked at", "precision@N")
    for name, color, style, width in _lines(rows, curves):
        axes.plot(curves["k"], curves[name], color=color, linestyle=style, linewidth=width, label=name)
    axes.set(xscale="log")
    return _with_legend(figure, axes)


def attention(data: dict[str, Any]) -> bytes:
    """Classes by teachers, cells annotated; the middle colour is the uniform weight."""
    weights = np.asarray(data["weights"])
    classes, teachers = weights.shape
    uniform = 1 / teachers
    reach = max(0.02, float(np.abs(weights - uniform).max()))
    figure = Figure(figsize=(2.2 + 1.1 * teachers, 1.4 + 0.36 * classes), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(weights, cmap="PuOr_r", vmin=uniform - reach, vmax=uniform + reach, aspect="auto")
    axes.set_xticks(range(teachers), data["teachers"])
    axes.set_yticks(range(classes), data["classes"], parse_math=False)
    for i, j in np.ndindex(classes, teachers):
        strong = abs(weights[i, j] - uniform) > 0.6 * reach
        axes.text(
            j,
            i,
            f"{weights[i, j]:.3f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if strong else "black",
        )
    figure.colorbar(shown, ax=axes, label=f"mean weight (uniform {uniform:.3f})")
    return png(figure)


def training(curves: dict[str, dict[str, list[float]]]) -> bytes:
    """Left: loss, raw light and smoothed. Right: the score of what is held out."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, (name, curve) in enumerate(curves.items()):
        color = PALETTE[place % len(PALETTE)]
        style = {"color": color, "linestyle": STYLES[place // len(PALETTE) % len(STYLES)], "label": name}
        loss = np.asarray(curve["loss"], float)
        left.plot(curve["step"], loss, color=color, alpha=0.15, linewidth=1)
        left.plot(curve["step"], _smooth(loss), linewidth=1.6, **style)
        right.plot(curve["validation_step"], curve["validation_map"], marker="o", markersize=3, **style)
    left.set(xlabel="step", ylabel="loss (its terms differ between rows)")
    right.set(xlabel="step", ylabel="validation score")
    for axes in (left, right):
        _plain(axes)
    return _with_legend(figure, right)


def cluster_counts(choice: dict[str, Any]) -> bytes:
    """Inertia and silhouette against the count of clusters, with the counts that both rules choose."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, name, chosen in zip(
        figure.subplots(1, 2), ("inertia", "silhouette"), ("elbow", "best_silhouette"), strict=True
    ):
        axes.plot(choice["counts"], choice[name], "o-", color="#0072B2", markersize=4)
        axes.axvline(choice[chosen], color="#D55E00", linestyle="--", label=f"chosen by it: {choice[chosen]}")
        axes.set(xlabel="clusters", ylabel=name)
        axes.legend(frameon=False, fontsize=8)
        _plain(axes)
    return png(figure)


def masks(study: dict[str, Any]) -> bytes:
    """Left: share of bits kept by each cluster against the margin, and their mean. Right: validation score against margin."""
    studied = bool(study.get("study_margins"))
    figure = Figure(figsize=(9 if studied else 4.6, 3.4), layout="constrained")
    left, *rest = figure.subplots(1, 2 if studied else 1, squeeze=False)[0]
    left.plot(study["margins"], study["kept"], color="#56B4E9", linewidth=1, alpha=0.7)
    left.plot(
        study["margins"],
        np.mean(study["kept"], axis=1),
        color="#D55E00",
        linewidth=2,
        label="mean of clusters",
    )
    left.set(xlabel="margin", ylabel="share of bits kept", ylim=(-0.02, 1.02))
    left.legend(frameon=False, fontsize=8)
    for right in rest:
        right.plot(study["study_margins"], study["study_validation"], "o-", color="#0072B2", markersize=4)
        right.set(xlabel="margin", ylabel="student's validation mAP@1000")
    for axes in (left, *rest):
        _plain(axes)
    return png(figure)


def retrieval_grid(grid: dict[str, Any], class_names: list[str]) -> bytes:
    """A query a line, its nearest pictures to the right: a tick and a frame for the right class, a cross for a wrong one."""
    queries, results = np.asarray(grid["queries"]), np.asarray(grid["results"])
    rows, columns = results.shape[:2]
    side, across, down = 1.0, 1.08, 1.22  # inches: a picture, and from one to the next
    figure, axes = canvas(across * (columns + 1), down * rows)
    for i in range(rows):
        label, top = int(grid["query_labels"][i]), i * down + 0.18
        show_picture(axes, queries[i], (0.03, top, side), class_names[label], "#333333", 2.5)
        for j in range(columns):
            found = int(grid["result_labels"][i][j])
            right = found == label
            caption = f"{'✓' if right else '✗ ' + class_names[found]} {int(grid['distances'][i][j])}"
            cell = (0.03 + (j + 1) * across, top, side)
            color, width = (RIGHT, 2.0) if right else (WRONG, 3.0)
            show_picture(axes, results[i, j], cell, caption, color, width)
    return png(figure)


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of so many inches, and its axes, which are in inches from its upper left corner."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    axes.axis("off")
    return figure, axes


def show_picture(
    axes: Axes, picture: np.ndarray, cell: tuple[float, float, float], caption: str, color: str, width: float
) -> None:
    """A picture on a `canvas` in a frame of `color` and `width` points, its caption above.

    cell: left, top and side of the square that it is to fill, in inches; one that is not square fills its middle. (Axes for each
    picture take several times as long.)
    """
    left, top, side = cell
    rows, columns = picture.shape[:2]
    across, down = (side * length / max(rows, columns) for length in (columns, rows))
    x, y = left + (side - across) / 2, top + (side - down) / 2
    axes.imshow(picture, extent=(x, x + across, y + down, y), interpolation="nearest", aspect="auto")
    axes.add_patch(Rectangle((x, y), across, down, fill=False, edgecolor=color, linewidth=width))
    axes.text(
        left + side / 2,
        y - 0.04,
        caption,
        fontsize=7,
        color=color,
        ha="center",
        va="bottom",
        parse_math=False,
    )


def _figure(xlabel: str, ylabel: str):
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    _plain(axes)
    return figure, axes


def _plain(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _lines(rows: list[dict[str, Any]], curves: dict[str, Any]):
    """Name, colour, line style and width of each row that has a curve; students stand out."""
    seen: dict[str, int] = {}
    for row in rows:
        if row["name"] in curves:
            group = row["group"]
            place = seen[group] = seen.get(group, -1) + 1
            yield row["name"], COLORS[group], STYLES[place % len(STYLES)], 2.4 if group == "student" else 1.3


def _with_legend(figure, axes) -> bytes:
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return png(figure)


def _smooth(values: np.ndarray) -> np.ndarray:
    """The mean over about a twentieth of the curve to each side."""
    reach = min(max(1, len(values) // 20), (len(values) - 1) // 2)
    window = np.ones(2 * reach + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white")
    return buffer.getvalue()
