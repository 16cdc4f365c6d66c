"""The README's short tables: a few rows of the long ones, in its own words."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kdhash.reproduce.pooled import BY_SINGLE, FUSED, PLAIN, Document, of_group, pool
from kdhash.reproduce.tables import NOT_RUN, NOTHING, cell

RESNETS = "cifar10-2-64bits"


class Line(NamedTuple):
    """A row of the runs of a group, and what the README calls it."""

    words: str
    group: str
    name: str


def dmth(documents: Sequence[Document]) -> str:
    """Of the tables dmth-resnets and beyond."""
    lines = [
        Line("ResNet-56, the best single teacher", RESNETS, "resnet56"),
        Line("four ResNets, mean of picture and mirror image", RESNETS, "mean_mirrored"),
        Line("four ResNets, attention", RESNETS, "attention"),
        Line("student ResNet-8, ten epochs, no transfer", RESNETS, PLAIN),
        Line("the same, taught by the single teacher that validation prefers", RESNETS, BY_SINGLE),
        Line("the same, taught by attention", RESNETS, FUSED),
        Line(
            "student ResNet-20 of width 20, 200 epochs, taught by attention (`configs/dmth_beyond.py`; run `two_views-cached`)",
            "two_views-cached",
            FUSED,
        ),
    ]
    return short(documents, lines, {"mAP@all": "map@all", "precision within two bits": "precision_radius2"})


def brcd(documents: Sequence[Document]) -> str:
    lines = at_64_bits(
        {
            "teacher": "teacher, CIBHash on MobileNetV2",
            "none": "student, CIBHash on MobileNetV1 0.25, alone",
            "kl": "taught by KL of codes",
            "sp": "taught by SP",
            "crd": "taught by CRD",
            "brcd_published": "taught by BRCD, as published",
            "brcd": "taught by BRCD, corrected",
            "brcd_no_mask": "taught by BRCD without bit masks",
        }
    )
    return short(documents, lines, {"symmetric": "map@1000", "asymmetric": "asymmetric map@1000"})


def kdcmh(documents: Sequence[Document]) -> str:
    lines = at_64_bits(
        {
            "teacher": "teacher, on MobileNetV2 and 2,000 words",
            "kdcmh": "KDCMH, student on MobileNetV1 0.25 and 1,000 words",
            "kdcmh_top_pairs": "KDCMH, 2 million most similar pairs",
            "direct": "the student on the fused similarity, no distillation",
            "djsrh": "DJSRH",
            "jdsh": "JDSH",
            "dsah": "DSAH",
            "ucch": "UCCH, contrastive",
            "CCA-ITQ, student's features": "CCA-ITQ",
        }
    )
    columns = {
        f"{arrow} {heading}": f"{way} {metric}"
        for heading, metric in (("mAP@50", "map@50"), ("mAP@all", "map@all"), ("R@10", "recall@10"))
        for arrow, way in (("I→T", "i2t"), ("T→I", "t2i"))
    }
    return short(documents, lines, columns)


def at_64_bits(words: dict[str, str]) -> list[Line]:
    """Rows of the runs of 64 bits; words: what the README calls each, by its name."""
    return [Line(told, "64bits", name) for name, told in words.items()]


def short(documents: Sequence[Document], lines: Sequence[Line], columns: dict[str, str]) -> str:
    """The lines' values of `columns` (heading: metric) and their multiply-adds, the best student in bold."""
    rows = [pool(of_group(documents, line.group)).get(line.name) for line in lines]
    if not any(rows):
        return NOTHING
    table = [
        [line.words if row else f"{line.words}: {NOT_RUN}"] for line, row in zip(lines, rows, strict=True)
    ]
    for metric in columns.values():
        values = [row.metrics.get(metric) if row else None for row in rows]
        students = [
            np.mean(value)
            for row, value in zip(rows, values, strict=True)
            if row and value and row.group == "student"
        ]
        best = max(students) if len(students) > 1 else np.inf
        for cells, row, value in zip(table, rows, values, strict=True):
            told = cell(value) if value else "–"
            bold = row is not None and row.group == "student" and value and np.mean(value) == best
            cells.append(f"**{told}**" if bold else told)
    for cells, row in zip(table, rows, strict=True):
        found = row.costs.get("multiply_adds") if row else None
        cells.append(f"{np.mean(found) / 1e6:.1f}" if found else "–")
    head = ["row", *columns, "million multiply-adds"]
    return "\n".join(
        [
            f"| {' | '.join(head)} |",
            "|---|" + "---:|" * (len(head) - 1),
            *(f"| {' | '.join(cells)} |" for cells in table),
        ]
    )
