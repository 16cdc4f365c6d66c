"""Figures of cross-modal search, as PNG bytes: texts with the pictures they find, pictures with the texts they find."""

import textwrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kdhash.report.figures import RIGHT, WRONG, png, show_picture

OWN = "#0072B2"  # the query's own other half
CHARACTERS = 95


def text_to_image(found: dict[str, Any]) -> bytes:
    """A text a line, its nearest pictures under it with their Hamming distances.

    found: 'texts' [queries], 'pictures' [queries, k, h, w, 3], 'distances' and 'marks' [queries, k]: 'own', 'right', 'wrong', or
    'other' where that is not known.
    """
    rows, columns = np.asarray(found["distances"]).shape
    figure = Figure(figsize=(1.25 * columns, 1.75 * rows), layout="constrained")
    for part, text, pictures, marks, distances in zip(
        figure.subfigures(rows, 1, squeeze=False)[:, 0],
        found["texts"],
        found["pictures"],
        found["marks"],
        found["distances"],
        strict=True,
    ):
        part.suptitle(_shortened(text), fontsize=9, ha="left", x=0.01, parse_math=False)
        for axes, picture, mark, distance in zip(
            part.subplots(1, columns, squeeze=False)[0], pictures, marks, distances, strict=True
        ):
            color, sign = _look(mark)
            show_picture(axes, picture, f"{sign} {int(distance)}", color, 3.0 if mark == "own" else 2.0)
    return png(figure)


def image_to_text(found: dict[str, Any]) -> bytes:
    """A picture a line, its nearest texts beside it with their Hamming distances.

    found: 'pictures' [queries, h, w, 3], 'texts' [queries][k], 'distances' and 'marks' [queries, k]: 'own', 'right', 'wrong', or
    'other' where that is not known.
    """
    rows, lines = np.asarray(found["distances"]).shape
    figure = Figure(figsize=(9, max(1.3, 0.25 * lines) * rows), layout="constrained")
    cells = figure.subplots(rows, 2, squeeze=False, width_ratios=(1, 7))
    for i in range(rows):
        show_picture(cells[i, 0], found["pictures"][i], "", "#333333", 2.0)
        cells[i, 1].axis("off")
        for j in range(lines):
            color, sign = _look(found["marks"][i][j])
            text = f"{sign} {int(found['distances'][i][j]):3d}   {_shortened(found['texts'][i][j])}"
            y = 1 - (j + 0.5) / lines
            cells[i, 1].text(
                0,
                y,
                text,
                color=color,
                fontsize=9,
                va="center",
                transform=cells[i, 1].transAxes,
                parse_math=False,
            )
    return png(figure)


def _look(mark: str) -> tuple[str, str]:
    return {"own": (OWN, "★"), "right": (RIGHT, "✓"), "wrong": (WRONG, "✗"), "other": ("#555555", "")}[mark]


def _shortened(text: str) -> str:
    return textwrap.shorten(text, CHARACTERS, placeholder=" …")
