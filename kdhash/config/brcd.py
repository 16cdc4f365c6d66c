"""What a BRCD config can have wrong; what it cannot do with its data is seen by `kdhash.experiment.check_hashers`."""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from kdhash.config.fields import (
    REQUIRED,
    batch_problems,
    form_row_problems,
    number_problems,
    option_problems,
    options_of,
    range_problems,
    remat_problems,
    schedule_problems,
    seed_problems,
    weights_problems,
)
from kdhash.methods.brcd import BASELINES, MASK_RULES, ON_CODES, brcd_distillation
from kdhash.methods.unsupervised import BASES
from kdhash.models.backbones import BACKBONES

KINDS = ("none", "brcd", *BASELINES)
HASHER_NUMBERS = ("teacher_hidden", "temperature", "kl_weight", "quantization", "gamma")
SWITCHES = ("remove_false_negatives", "offset_positives", "published")


def brcd_problems(config: ConfigDict, devices: int) -> Iterator[str]:
    if 1000 not in config.evaluate.ks:
        yield f"config.evaluate.ks is {config.evaluate.ks}; it must hold 1000, by which the rows are compared"
    yield from seed_problems(config)
    for name in ("teacher", "student"):
        if name not in config.backbones:
            yield f"config.backbones lacks {name!r}"
            continue
        spec = config.backbones[name]
        if "weights" in spec:
            yield from weights_problems(f"config.backbones.{name}", spec, config.weights_dir)
        elif spec.get("arch") not in BACKBONES or not {"sizes", "mean", "std"} <= set(spec):
            yield (
                f"config.backbones.{name} needs 'weights' of a frozen network, or 'arch' (one of "
                f"{', '.join(sorted(BACKBONES))}), 'sizes', 'mean' and 'std' of one to train"
            )
    yield from remat_problems(config, [spec.get("arch", "") for spec in config.backbones.values()])
    if config.features.contrast_views < 2:
        yield f"config.features.contrast_views is {config.features.contrast_views}; two different views are drawn: give 2 or more"
    if config.hasher.base not in BASES:
        yield f"config.hasher.base is {config.hasher.base!r}; choose one of {', '.join(BASES)}"
    yield from number_problems("config.hasher", config.hasher, HASHER_NUMBERS)
    yield from _cluster_problems(config.clusters)
    yield from number_problems("config.student", config.student, ("hidden",))
    yield from form_row_problems(config.student, taken=("teacher", "clusters"))
    for name, form in config.student.forms.items():
        yield from _form_problems(f"config.student.forms.{name}", form)
    for name in config.student.rows:
        if (
            config.student.forms.get(name, {}).get("kind") == "feature"
            and "weights" not in config.backbones.teacher
        ):
            yield f"config.backbones.teacher: the form {name!r} needs a frozen teacher; take it out of config.student.rows"
    if config.student.margins and "brcd" not in config.student.forms:
        yield "config.student.margins needs a form 'brcd' in config.student.forms; give () for no study of masks"
    for margin in config.student.margins:
        yield from range_problems("config.student.margins", margin, 0, 1, below=True)
    yield from batch_problems(
        {
            "features.batch_size": config.features.batch_size,
            "hasher.schedule.batch_size": config.hasher.schedule.batch_size,
        },
        devices,
    )
    yield from schedule_problems("hasher.schedule", config.hasher.schedule, devices)


def _cluster_problems(clusters: ConfigDict) -> Iterator[str]:
    yield from number_problems("config.clusters", clusters, ("starts",))
    count, counts = clusters.count, tuple(clusters.counts)
    if not isinstance(count, int) or count < 0:
        yield f"config.clusters.count is {count!r}; give their number, or 0 for the elbow of config.clusters.counts"
    elif not count and (
        not all(isinstance(one, int) for one in counts)
        or len(counts) < 3
        or min(counts) < 2
        or list(counts) != sorted(set(counts))
    ):
        yield f"config.clusters.counts is {counts}; give at least three whole numbers, rising, from 2 on"


def _form_problems(field: str, form: ConfigDict) -> Iterator[str]:
    """What a form holds: the weight of its objective and the objective's options."""
    kind = form.get("kind")
    if kind not in KINDS:
        yield f"{field}.kind is {kind!r}; choose one of {', '.join(KINDS)}"
        return
    own: dict[str, Any] = {} if kind == "none" else {"weight": 1.0}
    elsewhere: dict[str, str] = {}
    if kind == "brcd":
        elsewhere = {
            "temperature": "it is that of config.hasher",
            "masks": "they follow from 'mask' and 'margin'",
        }
        options = options_of(brcd_distillation)
        own |= {"mask": REQUIRED, "margin": REQUIRED}
        own |= {name: default for name, default in options.items() if name not in elsewhere}
    elif kind in ON_CODES:
        own |= options_of(ON_CODES[kind])
    yield from option_problems(field, form, own, elsewhere)
    given = {name: form[name] for name in own if name in form}
    if "mask" in given and given["mask"] not in MASK_RULES:
        yield f"{field}.mask is {given['mask']!r}; choose one of {', '.join(MASK_RULES)}"
    if "margin" in given:  # at 1 and above every bit would be masked
        yield from range_problems(f"{field}.margin", given["margin"], 0, 1, below=True)
    if "alpha" in given:
        yield from range_problems(f"{field}.alpha", given["alpha"], 0, 1)
    for name in SWITCHES:
        if name in given and not isinstance(given[name], bool):
            yield f"{field}.{name} is {given[name]!r}; give True or False"
    numbers = [name for name in given if name not in ("mask", "margin", "alpha", *SWITCHES)]
    yield from number_problems(field, given, numbers)
