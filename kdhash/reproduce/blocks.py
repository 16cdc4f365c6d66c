"""What stands between the markers of docs/results.md, docs/performance.md and of the README, by name."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kdhash.reproduce import pareto, performance, readme, robustness
from kdhash.reproduce.plan import BITS, TABLES
from kdhash.reproduce.pooled import (
    BY_SINGLE,
    FUSED,
    PLAIN,
    Document,
    of_group,
    pool,
    read_all,
    read_table,
    singles,
    value_of,
)
from kdhash.reproduce.tables import (
    NOT_RUN,
    NOTHING,
    Claim,
    Column,
    cell,
    claims,
    claims_by_group,
    named,
    runs,
    scores,
)

DISTILLATION = ("feature", "kl", "rkd", "sp", "pkt", "crd")  # BRCD's rivals
UNSUPERVISED = ("djsrh", "jdsh", "dsah", "ucch", "CCA-ITQ, teacher's features", "CCA-ITQ, student's features")
BASES = {"CIBHash": "64bits", "GreedyHash": "greedyhash", "Bi-half": "bihalf"}
PARETO = "![mAP@all against encode time and multiply-adds](figures/pareto.png)"
DMTH = {
    "dmth-resnets": ("cifar10-2", "cifar10-1"),
    "dmth-imagenet": ("cifar10-1", "cifar100"),
    "dmth-mix": ("cifar10-1",),
}


def blocks(results: Path) -> dict[str, Callable[[], str]]:
    """Every block by its name in a marker; made when called."""

    def of(table: str, make: Callable[..., str], *arguments: Any) -> Callable[[], str]:
        return lambda: make(read_table(results, table), *arguments)

    found = {f"{table}/runs": of(table, partial(runs, table)) for table in TABLES}
    for table, prefixes in DMTH.items():
        for prefix in prefixes:
            found[f"{table}/{prefix}"] = of(table, dmth, prefix, BITS if table != "dmth-mix" else (64,))
            found[f"{table}/{prefix}-claims"] = of(table, dmth_answers, f"{prefix}-64bits")
            if table != "dmth-mix":
                groups = widths(f"{prefix}-")
                found[f"{table}/{prefix}-widths"] = of(table, claims_by_group, dmth_claims, groups)
    long = "cifar10-2-64bits-long"
    found["dmth-resnets/cifar10-2-long"] = of("dmth-resnets", dmth_long, long)
    found["dmth-resnets/cifar10-2-long-claims"] = of("dmth-resnets", dmth_answers, long, 5)
    probabilities = "cifar100-64bits-probabilities"
    found["dmth-imagenet/cifar100-probabilities"] = of("dmth-imagenet", dmth_long, probabilities)
    found["dmth-imagenet/cifar100-recipes"] = of("dmth-imagenet", dmth_recipes, "cifar100-64bits")
    found["dmth-imagenet/cifar100-probabilities-claims"] = of(
        "dmth-imagenet", dmth_answers, probabilities, 5, 6
    )
    found["beyond/students"] = of("beyond", beyond)
    shared = partial(read_all, results, pareto.TABLES)
    found["pareto"] = lambda: PARETO if pareto.points_of(shared()) else NOTHING
    found["brcd/bits"] = of("brcd", brcd_bits)
    found["brcd/64bits"] = of("brcd", brcd_in_full)
    found["brcd/ablation"] = of("brcd", brcd_ablation)
    found["brcd/bases"] = of("brcd", brcd_bases)
    found["brcd/margins"] = of("brcd", brcd_margins)
    found["brcd/claims"] = of("brcd", claims, brcd_claims("64bits"))
    found["brcd/widths"] = of("brcd", claims_by_group, brcd_claims, widths())
    options = {group: group for group in [*brcd_ablations(), *BASES.values()] if group != "64bits"}
    found["brcd/options"] = of("brcd", claims_by_group, brcd_claims, options)
    for table in ("kdcmh-flickr8k", "kdcmh-wikipedia"):
        for cut in ("50", "all"):
            found[f"{table}/map@{cut}"] = of(table, kdcmh_bits, cut)
        found[f"{table}/recall"] = of(table, kdcmh_recall, "64bits" if table == "kdcmh-flickr8k" else "")
        found[f"{table}/claims"] = of(table, claims, kdcmh_claims("64bits"))
        found[f"{table}/widths"] = of(table, claims_by_group, kdcmh_claims, widths())
    found["robustness/queries"] = of("robustness", robustness.table)
    found["robustness/kept"] = of("robustness", robustness.kept)
    found["readme/dmth"] = lambda: readme.dmth(read_all(results, ("dmth-resnets", "beyond")))
    found["readme/brcd"] = of("brcd", readme.brcd)
    found["readme/kdcmh"] = of("kdcmh-flickr8k", readme.kdcmh)
    return found | performance.blocks(results)


def widths(prefix: str = "") -> dict[str, str]:
    """The groups of all widths, by their headings."""
    return {f"{count} bits": f"{prefix}{count}bits" for count in BITS}


def dmth(documents: Sequence[Document], prefix: str, bits: Sequence[int]) -> str:
    """mAP@all by bits; students and costs at 64."""
    columns = [Column(f"{count} bits", f"{prefix}-{count}bits", "map@all") for count in bits]
    columns += [Column("64 bits, within two bits", f"{prefix}-64bits", "precision_radius2")]
    return scores(documents, columns, costs=f"{prefix}-64bits", reference="attention")


def dmth_long(documents: Sequence[Document], group: str) -> str:
    """A student that had time to learn, at 64 bits."""
    columns = [
        Column("mAP@all", group, "map@all"),
        Column("mAP@1000", group, "map@1000"),
        Column("within two bits", group, "precision_radius2"),
    ]
    return scores(documents, columns, costs=group, reference="attention")


def dmth_recipes(documents: Sequence[Document], group: str) -> str:
    """The same student, mAP@all, by how long and from what it learns."""
    recipes = {
        "25 epochs": group,
        "60 epochs": f"{group}-time",
        "and class probabilities": f"{group}-probabilities",
    }
    columns = [Column(words, each, "map@all") for words, each in recipes.items()]
    return scores(documents, columns, groups=("student",))


def dmth_answers(documents: Sequence[Document], group: str, first: int = 0, end: int | None = None) -> str:
    """The claims (of those about scores the ones from `first` to `end`), and what encoding costs."""
    rows = pool(of_group(documents, group), PLAIN)
    if not rows:
        return NOTHING
    measured, answer = NOT_RUN, ""
    if FUSED in rows and PLAIN in rows:
        taught, plain = rows[FUSED].costs, rows[PLAIN].costs
        measured = f"{np.mean(taught['relative']):.2f} times the encode time of {PLAIN}"
        if taught.get("multiply_adds"):
            same = all(taught[name] == plain[name] for name in ("parameters", "multiply_adds"))
            measured += ", parameters and multiply-adds " + ("the same" if same else "differ")
            answer = "**holds**" if same else "**does not hold**"
    line = f"| (c) transfer costs nothing when encoding | {measured} | | | {answer} |"
    return claims(documents, dmth_claims(group)[first:end]) + "\n" + line


def dmth_claims(group: str) -> list[Claim]:
    """All by mAP@all."""
    fused = named("attention")
    return [
        Claim("(a) fused teacher above the best single one", group, fused, singles, "map@all", 2.0),
        Claim(
            "the same, if that one sees both views too", group, fused, partial(singles, views=2), "map@all"
        ),
        Claim("attention above the mean", group, fused, named("mean_mirrored"), "map@all"),
        Claim("attention above concatenation", group, fused, named("concat_mirrored"), "map@all"),
        Claim("attention above a learned global weight", group, fused, named("global"), "map@all"),
        Claim(
            "(b) taught student above the same without transfer",
            group,
            named(FUSED),
            named(PLAIN),
            "map@all",
            4.0,
        ),
        Claim(
            "the fused teacher teaches better than the best single one",
            group,
            named(FUSED),
            named(BY_SINGLE),
            "map@all",
        ),
    ]


def beyond(documents: Sequence[Document]) -> str:
    """Each variant's student: its share of the fused teacher's mAP@all, and of the teachers' multiply-adds."""
    if not documents:
        return NOTHING
    lines = [
        "| run | student | mAP@all | of the fused teacher's | M mult.-adds | of the teachers', one view | two views | "
        "encode time |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    groups = dict.fromkeys(run.group for run in TABLES["beyond"]((0,)))
    for group in groups:
        rows = pool(of_group(documents, group), "attention")
        students = [row for row in rows.values() if row.group == "student"]
        teacher = rows.get("attention")
        if not students or not teacher:
            lines.append(f"| `{group}` | {NOT_RUN} | | | | | | |")
            continue
        student = students[-1]  # after the one without transfer, where there are both
        score = value_of(student.metrics["map@all"])
        share = value_of(
            [a / b for a, b in zip(student.metrics["map@all"], teacher.metrics["map@all"], strict=True)]
        )
        own, both = student.costs["multiply_adds"][0], teacher.costs["multiply_adds"][0]
        spread = [
            f" ± {scale * one.deviation:.{digits}f}" if one.seeds > 1 else ""
            for one, scale, digits in ((score, 1, 4), (share, 100, 2))
        ]
        lines.append(
            f"| `{group}` ({score.seeds}) | {student.name.removeprefix('student, ')} | "
            f"{score.mean:.4f}{spread[0]} | {100 * share.mean:.2f}{spread[1]} % | {own / 1e6:.1f} | "
            f"{100 * own / (both / 2):.1f} % | {100 * own / both:.1f} % | {np.mean(student.costs['relative']):.2f} |"
        )
    return "\n".join(lines)


def brcd_bits(documents: Sequence[Document]) -> str:
    """mAP@1000 by bits, symmetric and asymmetric."""
    columns = []
    for count in BITS:
        columns.append(Column(f"{count} bits", f"{count}bits", "map@1000"))
        columns.append(Column("asymmetric", f"{count}bits", "asymmetric map@1000"))
    return scores(documents, columns, costs="64bits", reference="teacher")


def brcd_in_full(documents: Sequence[Document]) -> str:
    """All metrics of 64 bits."""
    metrics = {
        "mAP@1000": "map@1000",
        "asymmetric": "asymmetric map@1000",
        "stable ties": "map@1000_stable",
        "mAP@all": "map@all",
        "asymmetric mAP@all": "asymmetric map@all",
        "validation mAP@1000": "validation",
    }
    columns = [Column(heading, "64bits", metric) for heading, metric in metrics.items()]
    return scores(documents, columns, costs="64bits", reference="teacher")


def brcd_bases(documents: Sequence[Document]) -> str:
    """mAP@1000 at 64 bits, by base hasher."""
    columns = []
    for words, group in BASES.items():
        columns.append(Column(words, group, "map@1000"))
        columns.append(Column("asymmetric", group, "asymmetric map@1000"))
    return scores(documents, columns, groups=("teacher", "student"))


def brcd_ablations() -> list[str]:
    """The groups that change one option."""
    return [run.group for run in TABLES["brcd"]((0,)) if run.group.startswith(("clusters", "alpha", "masks"))]


def brcd_ablation(documents: Sequence[Document]) -> str:
    """Clusters, alpha and the rule of masks, mAP@1000 at 64 bits."""
    if not documents:
        return NOTHING
    lines = [
        "| run | clusters, first seed | teacher | none | brcd | brcd, asymmetric | brcd_no_mask |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    shown = [("teacher", ""), ("none", ""), ("brcd", ""), ("brcd", "asymmetric "), ("brcd_no_mask", "")]
    for group in ["64bits", *brcd_ablations()]:
        rows = pool(of_group(documents, group))
        if not rows:
            lines.append(f"| `{group}` | {NOT_RUN} |" + " |" * len(shown))
            continue
        count = of_group(documents, group)[0]["clusters"]
        cells = []
        for name, prefix in shown:
            cells.append(cell(rows[name].metrics[f"{prefix}map@1000"]) if name in rows else "–")
        seeds = len(of_group(documents, group)[0]["seeds"])
        lines.append(f"| `{group}` ({seeds}) | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def brcd_margins(documents: Sequence[Document]) -> str:
    """The study of masks: the first seed's student with each margin, on validation queries."""
    study = next((one["margins"] for one in of_group(documents, "64bits") if one["margins"]), None)
    if not study:
        return NOTHING
    lines = ["| margin | bits kept, mean of the clusters | validation mAP@1000 |", "|---:|---:|---:|"]
    for margin, kept, score in zip(
        study["study_margins"], study["study_kept"], study["study_validation"], strict=True
    ):
        lines.append(f"| {margin:g} | {100 * kept:.1f} % | {score:.4f} |")
    return "\n".join(lines)


def brcd_claims(group: str) -> list[Claim]:
    asked = []
    for kind, metric in (("symmetric", "map@1000"), ("asymmetric", "asymmetric map@1000")):
        for text, other in (
            ("distillation improves the student", ("none",)),
            ("BRCD above the best other way to distil", DISTILLATION),
            ("bit masks help", ("brcd_no_mask",)),
            ("the corrected method above the published program (masks of zeros)", ("brcd_published",)),
            ("leaving out false negatives helps", ("brcd_no_removal",)),
            ("offset positives help", ("brcd_no_offset",)),
            ("a positive of the row too (alpha .8) above the anchor alone", ("brcd_alpha_1",)),
        ):
            asked.append(Claim(f"{text}, {kind}", group, named("brcd"), named(*other), metric))
    return asked


def kdcmh_bits(documents: Sequence[Document], cut: str) -> str:
    """Both directions by bits."""
    columns = [
        Column(f"{arrow} {count} bits", f"{count}bits", f"{way} map@{cut}")
        for arrow, way in (("I→T", "i2t"), ("T→I", "t2i"))
        for count in BITS
    ]
    return scores(documents, columns)


def kdcmh_recall(documents: Sequence[Document], costs: str) -> str:
    """Of the one right pair, both directions, 64 bits; ready features have no costs worth telling."""
    columns = [
        Column(f"{arrow} R@{k}", "64bits", f"{way} recall@{k}")
        for arrow, way in (("I→T", "i2t"), ("T→I", "t2i"))
        for k in (1, 5, 10)
    ]
    return scores(documents, columns, costs=costs, reference="teacher")


def kdcmh_claims(group: str) -> list[Claim]:
    student = named("kdcmh", "kdcmh_top_pairs")
    return [
        Claim(f"{text}, {arrow} mAP@{cut}", group, student, named(*others), f"{way} map@{cut}")
        for text, others in (
            ("the student learns more from the teacher's codes than from features", ("direct",)),
            ("KDCMH above the best other unsupervised method", UNSUPERVISED),
        )
        for arrow, way in (("I→T", "i2t"), ("T→I", "t2i"))
        for cut in ("50", "all")
    ]
