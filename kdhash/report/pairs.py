"""Figures of cross-modal search, as PNG bytes: texts with the pictures they find, pictures with the texts they find."""

import textwrap
from typing import Any

import numpy as np

from kdhash.report.figures import RIGHT, WRONG, canvas, png, show_picture

OWN = "#0072B2"  # the query's own other half
CHARACTERS = 95


def text_to_image(found: dict[str, Any]) -> bytes:
    """A text a line, its nearest pictures under it with their Hamming distances.

    found: 'texts' [queries], 'pictures' [queries, k, h, w, 3], 'distances' and 'marks' [queries, k]: 'own', 'right', 'wrong', or
    'other' where that is not known.
    """
    rows, columns = np.asarray(found["distances"]).shape
    side, across, down = 1.17, 1.25, 1.75  # inches: a picture, and from one to the next
    figure, axes = canvas(across * columns, down * rows)
    for i in range(rows):
        text = _shortened(found["texts"][i])
        axes.text(0.05, i * down + 0.08, text, fontsize=9, va="top", parse_math=False)
        for j in range(columns):
            mark = found["marks"][i][j]
            color, sign = _look(mark)
            caption, width = f"{sign} {int(found['distances'][i][j])}", 3.0 if mark == "own" else 2.0
            cell = (0.04 + j * across, i * down + 0.46, side)
            show_picture(axes, found["pictures"][i][j], cell, caption, color, width)
    return png(figure)


def image_to_text(found: dict[str, Any]) -> bytes:
    """A picture a line, its nearest texts beside it with their Hamming distances.

    found: 'pictures' [queries, h, w, 3], 'texts' [queries][k], 'distances' and 'marks' [queries, k]: 'own', 'right', 'wrong', or
    'other' where that is not known.
    """
    rows, lines = np.asarray(found["distances"]).shape
    down = max(1.3, 0.25 * lines)
    figure, axes = canvas(9, down * rows)
    for i in range(rows):
        show_picture(axes, found["pictures"][i], (0.04, i * down + 0.05, 1.15), "", "#333333", 2.0)
        for j in range(lines):
            color, sign = _look(found["marks"][i][j])
            text = f"{sign} {int(found['distances'][i][j]):3d}   {_shortened(found['texts'][i][j])}"
            y = i * down + 0.05 + (j + 0.5) / lines * (down - 0.15)
            axes.text(1.35, y, text, color=color, fontsize=9, va="center", parse_math=False)
    return png(figure)


def _look(mark: str) -> tuple[str, str]:
    return {"own": (OWN, "★"), "right": (RIGHT, "✓"), "wrong": (WRONG, "✗"), "other": ("#555555", "")}[mark]


def _shortened(text: str) -> str:
    return textwrap.shorten(text, CHARACTERS, placeholder=" …")
