"""Checks a config before any work starts. Every message names the field and says what to do."""

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from kdhash.methods.brcd import BASELINES, MASK_RULES
from kdhash.methods.dmth import OBJECTIVES
from kdhash.methods.kdcmh import FITTED, ucch_loss
from kdhash.methods.kdcmh import OBJECTIVES as PAIR_OBJECTIVES
from kdhash.methods.unsupervised import BASES
from kdhash.models.backbones import BACKBONES
from kdhash.teachers.registry import DTYPES
from kdhash.teachers.sources import find_source
from kdhash.teachers.views import recipe_of

METHODS = ("dmth", "brcd", "kdcmh")
PROTOCOLS = ("cifar10-1", "cifar10-2", "cifar10-brcd", "holdout")
PAIR_PROTOCOLS = ("pairs", "mirflickr25k", "nuswide10")
FUSIONS = ("mean", "concat", "attention")
STUDENT_ROWS = ("plain", "best_single", "fused")
# Of fields and options of these names, wherever a KDCMH config has them.
POSITIVE = ("k_left", "k_right", "mu", "scale", "temperature")
WHOLE = ("pairs", "words", "image_hidden", "text_hidden")
NOT_NEGATIVE = ("l1", "l2", "intra", "quantization", "balance", *WHOLE)
# Where things lie, not what is computed: a workdir may be continued with other values of these.
LOCATIONS = ("data_dir", "weights_dir", "cache_dir")


class ConfigError(ValueError):
    """A config that cannot be run; the message has one line a problem."""


def check_config(config: ConfigDict, *, devices: int) -> None:
    """Raises ConfigError listing every problem of `config` that can be known before work: one line each.

    `devices` is the number of devices that batches are divided over.
    """
    problems = list(_problems(config, devices))
    if problems:
        raise ConfigError("\n".join(problems))


def _problems(config: ConfigDict, devices: int) -> Iterator[str]:
    if config.method not in METHODS:
        yield f"config.method is {config.method!r}; choose one of {', '.join(METHODS)}"
        return
    yield from _common_problems(config)
    if config.method == "kdcmh":
        yield from _kdcmh_problems(config, devices)
        return
    yield from _labelled_problems(config)
    yield from {"dmth": _dmth_problems, "brcd": _brcd_problems}[config.method](config, devices)


def _common_problems(config: ConfigDict) -> Iterator[str]:
    if config.bits <= 0 or config.bits % 8:
        yield f"config.bits is {config.bits}; codes are packed 8 bits a byte, so use a multiple of 8 such as 16, 32 or 64"
    if config.mapping not in ("jit", "pmap"):
        yield f"config.mapping is {config.mapping!r}; choose 'jit' or 'pmap'"
    if 0 not in config.evaluate.ks or min(config.evaluate.ks) < 0:
        yield f"config.evaluate.ks is {config.evaluate.ks}; it must hold 0 (mAP over the whole database) and nothing below"
    if config.features.get("dtype", "float32") not in DTYPES:
        yield f"config.features.dtype is {config.features.dtype!r}; choose one of {', '.join(DTYPES)}"


def _labelled_problems(config: ConfigDict) -> Iterator[str]:
    if config.protocol not in PROTOCOLS:
        yield f"config.protocol is {config.protocol!r}; choose one of {', '.join(PROTOCOLS)}"
    if config.validation_per_class < 5 and config.protocol != "cifar10-brcd":
        yield (
            f"config.validation_per_class is {config.validation_per_class}; forms and epochs are chosen on "
            "held-out images, one in five of them as queries, so hold out at least 5 a class"
        )
    if config.dataset != "digits" and not (Path(config.data_dir) / config.dataset).is_dir():
        yield (
            f"config.data_dir: no data set {Path(config.data_dir) / config.dataset}; prepare it with "
            f"'python -m kdhash prepare', or set --config.data_dir to the folder that holds {config.dataset}/"
        )


def _brcd_problems(config: ConfigDict, devices: int) -> Iterator[str]:
    if 1000 not in config.evaluate.ks:
        yield f"config.evaluate.ks is {config.evaluate.ks}; it must hold 1000, by which the rows are compared"
    yield from _seed_problems(config)
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
    if config.features.contrast_views < 2:
        yield f"config.features.contrast_views is {config.features.contrast_views}; two different views are drawn: give 2 or more"
    if config.hasher.base not in BASES:
        yield f"config.hasher.base is {config.hasher.base!r}; choose one of {', '.join(BASES)}"
    clusters = config.clusters
    if clusters.count < 0:
        yield f"config.clusters.count is {clusters.count}; give their number, or 0 for the elbow of config.clusters.counts"
    counts = tuple(clusters.counts)
    if not clusters.count and (len(counts) < 3 or min(counts) < 2 or list(counts) != sorted(set(counts))):
        yield f"config.clusters.counts is {counts}; give at least three, rising, from 2 on"
    yield from _form_row_problems(config.student, taken=("teacher", "clusters"))
    kinds = ("none", "brcd", *BASELINES)
    for name, form in config.student.forms.items():
        if form.kind not in kinds:
            yield f"config.student.forms.{name}.kind is {form.kind!r}; choose one of {', '.join(kinds)}"
        if form.kind == "brcd" and form.mask not in MASK_RULES:
            yield f"config.student.forms.{name}.mask is {form.mask!r}; choose one of {', '.join(MASK_RULES)}"
    for name in config.student.rows:
        if (
            config.student.forms.get(name, {}).get("kind") == "feature"
            and "weights" not in config.backbones.teacher
        ):
            yield f"config.backbones.teacher: the form {name!r} needs a frozen teacher; take it out of config.student.rows"
    if config.student.margins and "brcd" not in config.student.forms:
        yield "config.student.margins needs a form 'brcd' in config.student.forms; give () for no study of masks"
    yield from _batch_problems(
        {
            "features.batch_size": config.features.batch_size,
            "hasher.schedule.batch_size": config.hasher.schedule.batch_size,
        },
        devices,
    )
    yield from _schedule_problems("hasher.schedule", config.hasher.schedule)


def _seed_problems(config: ConfigDict) -> Iterator[str]:
    if not config.seeds or len(set(config.seeds)) != len(config.seeds):
        yield f"config.seeds is {tuple(config.seeds)}; give one or more different numbers"


def _kdcmh_problems(config: ConfigDict, devices: int) -> Iterator[str]:
    if 50 not in config.evaluate.ks:
        yield f"config.evaluate.ks is {config.evaluate.ks}; it must hold 50, as the literature's mAP@50 stands beside mAP@all"
    yield from _seed_problems(config)
    if config.protocol not in PAIR_PROTOCOLS:
        yield f"config.protocol is {config.protocol!r}; choose one of {', '.join(PAIR_PROTOCOLS)}"
    if config.train < 0:
        yield f"config.train is {config.train}; give how many pairs to train on, or 0 for all that is not validation"
    if config.validation < 1:
        yield f"config.validation is {config.validation}; epochs are chosen on these pairs: hold out some hundreds"
    yield from _input_problems(config)
    yield from _share_problems("config.similarity.weights", config.similarity.get("weights"))
    yield from _number_problems(
        "config.similarity", config.similarity, ("k_left", "k_right", "l1", "l2", "mu")
    )
    yield from _number_problems("config.teacher", config.teacher, ("image_hidden", "text_hidden", "intra"))
    yield from _number_problems("config.student", config.student, ("image_hidden", "text_hidden"))
    yield from _form_row_problems(config.student, taken=("teacher",))
    for name, form in config.student.forms.items():
        yield from _pair_form_problems(f"config.student.forms.{name}", form)
    sizes = {
        "features.batch_size": config.features.batch_size,
        "schedule.batch_size": config.schedule.batch_size,
    }
    yield from _batch_problems(sizes, devices)
    yield from _schedule_problems("schedule", config.schedule)


def _input_problems(config: ConfigDict) -> Iterator[str]:
    """Of what is to read pictures and texts. Whether it is needed, and there, is seen when the data are."""
    for part in ("images", "texts"):
        specs = config[part]
        for name in sorted({"teacher", "student"} ^ set(specs)) if len(specs) else ():
            which = "is unknown" if name in specs else "is missing"
            yield (
                f"config.{part}.{name} {which}; give both 'teacher' and 'student', or neither for data with ready features"
            )
        for name, spec in specs.items():
            field = f"config.{part}.{name}"
            given = spec if isinstance(spec, ConfigDict) else {}
            if "weights" in given or part == "images":
                weights = given.get("weights")
                if not isinstance(weights, str) or not weights:
                    yield f"{field}.weights is {weights!r}; give the file or folder of a frozen network"
            elif not {"words", "vectors"} <= set(given):
                yield f"{field} needs 'words' and 'vectors', or 'weights' of a frozen text tower"
            else:
                yield from _number_problems(field, given, ("words",))
                if given["words"] == 0 and not given["vectors"]:
                    yield f"{field}.words is 0; give how many words the vocabulary may hold, or 'vectors'"


def _pair_form_problems(field: str, form: ConfigDict) -> Iterator[str]:
    """What a form holds beside the options of its objective: kdcmh 'pairs', jdsh its shares 'weights'."""
    kind = form.get("kind")
    if kind not in PAIR_OBJECTIVES:
        yield f"{field}.kind is {kind!r}; choose one of {', '.join(PAIR_OBJECTIVES)}"
        return
    objective = ucch_loss if kind == "ucch" else PAIR_OBJECTIVES[kind]
    options = {
        name: option.default
        for name, option in inspect.signature(objective).parameters.items()
        if option.kind is option.KEYWORD_ONLY
    }
    elsewhere = {"threshold": "it follows from 'pairs'"} if kind == "kdcmh" else {}
    if kind in FITTED:
        elsewhere = dict.fromkeys(("l1", "l2", "mu"), "it is that of config.similarity")
        elsewhere["similarity"] = "it is fitted by the run"
    own = {name: default for name, default in options.items() if name not in elsewhere}
    own |= dict.fromkeys({"kdcmh": ("pairs",), "jdsh": ("weights",)}.get(kind, ()), inspect.Parameter.empty)
    for name in form:
        if name in elsewhere:
            yield f"{field}.{name}: {elsewhere[name]}; take it out"
        elif name != "kind" and name not in own:
            yield f"{field}.{name} is no option of the kind {kind!r}; choose from {', '.join(own)}"
    for name, default in own.items():
        if default is inspect.Parameter.empty and name not in form:
            yield f"{field}.{name} is missing; the kind {kind!r} needs it"
    if "weights" in own and "weights" in form:
        yield from _share_problems(f"{field}.weights", form.weights)
    given = [name for name in form if name in own and name != "weights"]
    numbers = [name for name in given if form[name] is not None or own[name] is not None]
    yield from _number_problems(field, form, numbers)


def _share_problems(field: str, shares: Any) -> Iterator[str]:
    fine = isinstance(shares, (tuple, list)) and len(shares) == 3 and all(map(_is_number, shares))
    if not fine or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        yield f"{field} is {shares!r}; give three shares that sum to 1"


def _number_problems(place: str, values: Mapping[str, Any], names: Iterable[str]) -> Iterator[str]:
    for name in names:
        value: Any = values.get(name)
        if not _is_number(value) or (name in WHOLE and not isinstance(value, int)):
            yield f"{place}.{name} is {value!r}; give a {'whole ' if name in WHOLE else ''}number"
        elif name in POSITIVE and value <= 0:
            yield f"{place}.{name} is {value}; it must be positive"
        elif name in NOT_NEGATIVE and value < 0:
            yield f"{place}.{name} is {value}; it must not be negative"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _form_row_problems(student: ConfigDict, *, taken: tuple[str, ...]) -> Iterator[str]:
    """`taken` are the names of what else lies beside the students in seedN/."""
    forms = tuple(student.forms)
    if not student.rows:
        yield f"config.student.rows is empty; name one form or more of {', '.join(forms)}"
    if len(set(student.rows)) != len(student.rows):
        yield f"config.student.rows is {tuple(student.rows)}; give each row once"
    yield from _row_problems("student", student.rows, forms)
    for name in taken:
        if name in forms:
            yield f"config.student.forms.{name}: the name is taken in the workdir; choose another one"


def _dmth_problems(config: ConfigDict, devices: int) -> Iterator[str]:
    yield from _teacher_problems(config)
    yield from _row_problems("teacher", config.teacher.rows, tuple(config.teacher.forms))
    yield from _row_problems("student", config.student.rows, STUDENT_ROWS)
    fused = [form for form in config.teacher.forms if not form.startswith("single")]
    if config.student.teacher not in fused:
        yield f"config.student.teacher is {config.student.teacher!r}; choose one of {', '.join(fused)}"
        return
    for name, form in config.teacher.forms.items():
        if form.kind not in FUSIONS:
            yield f"config.teacher.forms.{name}.kind is {form.kind!r}; choose one of {', '.join(FUSIONS)}"
        if config.teacher.width % form.get("heads", 1):
            yield (
                f"config.teacher.forms.{name}.heads is {form.heads}, which does not divide "
                f"config.teacher.width, {config.teacher.width}"
            )
    most = max(len(form.views) for form in config.teacher.forms.values())
    if len(config.teacher.validation_views) < most:
        yield (
            f"config.teacher.validation_views has {len(config.teacher.validation_views)} views, "
            f"config.teacher.forms up to {most}; give as many to validate with"
        )
    needed = {"best_single": "single", "fused": config.student.teacher}
    for row, source in needed.items():
        if row in config.student.rows and source not in config.teacher.rows:
            yield f"config.student.rows has {row!r}, which needs {source!r} in config.teacher.rows"
    for view in config.features.views:
        try:
            recipe_of(view)
        except ValueError as error:
            yield f"config.features.views: {error}"
    mirrored = ("flip",) if config.student.augment.flip and set(config.student.rows) - {"plain"} else ()
    seen = [
        view for row in config.teacher.rows for view in config.teacher.forms.get(row, {"views": ()})["views"]
    ]
    wanted = (*config.teacher.views, *seen, *config.teacher.validation_views, *mirrored)
    for view in dict.fromkeys(("original", *wanted)):
        if view not in config.features.views:
            yield f"config.features.views lacks {view!r}, which is needed; it has {', '.join(config.features.views)}"
    for part in ("teacher", "student"):
        if config[part].objective not in OBJECTIVES:
            yield f"config.{part}.objective is {config[part].objective!r}; choose one of {', '.join(OBJECTIVES)}"
    if config.student.arch not in BACKBONES:
        yield f"config.student.arch is {config.student.arch!r}; choose one of {', '.join(sorted(BACKBONES))}"
    sizes = {
        "features.batch_size": config.features.batch_size,
        "teacher.schedule.batch_size": config.teacher.schedule.batch_size,
        "student.schedule.batch_size": config.student.schedule.batch_size,
    }
    if "pretrain" in config:
        sizes["pretrain.schedule.batch_size"] = config.pretrain.schedule.batch_size
    yield from _batch_problems(sizes, devices)
    for part in ("pretrain", "teacher", "student"):
        if part in config:
            yield from _schedule_problems(f"{part}.schedule", config[part].schedule)


def _teacher_problems(config: ConfigDict) -> Iterator[str]:
    if len(config.teachers) < 2:
        yield f"config.teachers names {len(config.teachers)}; fusion needs at least two teachers"
    for name, spec in config.teachers.items():
        if name in config.teacher.forms:
            yield f"config.teachers.{name}: the name is taken by a form of fusion; choose another one"
        if "arch" in spec and spec.arch not in BACKBONES:
            yield f"config.teachers.{name}.arch is {spec.arch!r}; choose one of {', '.join(sorted(BACKBONES))}"
        if "pretrain" not in config:
            yield from weights_problems(f"config.teachers.{name}", spec, config.weights_dir)


def weights_problems(field: str, spec: ConfigDict, weights_dir: str) -> Iterator[str]:
    if spec.weights.startswith("hf://"):
        return  # not there yet: fetched
    try:
        find_source(spec.weights, weights_dir)
    except (FileNotFoundError, ValueError) as error:
        yield f"{field}.weights: {error}"


def _batch_problems(sizes: dict[str, int], devices: int) -> Iterator[str]:
    for field, size in sizes.items():
        if size <= 0 or size % devices:
            yield f"config.{field} is {size}, which {devices} devices do not divide; use a multiple of {devices}"


def _row_problems(part: str, rows: tuple[str, ...], known: tuple[str, ...]) -> Iterator[str]:
    for row in rows:
        if row not in known:
            yield f"config.{part}.rows names {row!r}; choose from {', '.join(known)}"


def _schedule_problems(place: str, schedule: ConfigDict) -> Iterator[str]:
    for field in ("epochs", "learning_rate", "log_every", "checkpoint_every_epochs"):
        if schedule[field] <= 0:
            yield f"config.{place}.{field} is {schedule[field]}; it must be positive"
    if schedule.optimizer not in ("sgd", "adamw"):
        yield f"config.{place}.optimizer is {schedule.optimizer!r}; choose 'sgd' or 'adamw'"
    if schedule.keep not in ("best", "last"):
        yield f"config.{place}.keep is {schedule.keep!r}; choose 'best' or 'last'"
    if schedule.epochs > 0 and not 0 <= schedule.warmup_epochs < schedule.epochs:
        yield f"config.{place}.warmup_epochs is {schedule.warmup_epochs}; it must lie in [0, epochs)"


def flat(config: ConfigDict | dict, prefix: str = "") -> dict[str, object]:
    """{'student.schedule.epochs': 10, ...}: every leaf by its dotted name, tuples as lists (as JSON keeps them)."""
    leaves: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, (ConfigDict, dict)):
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = list(value) if isinstance(value, tuple) else value
    return leaves
