"""Checks a config before any work starts. Every message names the field and says what to do."""

import re
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from kdhash.models.backbones import BACKBONES
from kdhash.teachers.registry import DTYPES
from kdhash.teachers.sources import find_source

PROTOCOLS = ("cifar10-1", "cifar10-2", "holdout")
FUSIONS = ("mean", "concat", "attention")
STUDENT_ROWS = ("plain", "best_single", "fused")
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
    if config.method != "dmth":
        yield f"config.method is {config.method!r}; the only method of this version is 'dmth'"
    if config.bits <= 0 or config.bits % 8:
        yield f"config.bits is {config.bits}; codes are packed 8 bits a byte, so use a multiple of 8 such as 16, 32 or 64"
    if config.mapping not in ("jit", "pmap"):
        yield f"config.mapping is {config.mapping!r}; choose 'jit' or 'pmap'"
    if config.protocol not in PROTOCOLS:
        yield f"config.protocol is {config.protocol!r}; choose one of {', '.join(PROTOCOLS)}"
    if config.validation_per_class < 5:
        yield (
            f"config.validation_per_class is {config.validation_per_class}; forms and epochs are chosen on "
            "held-out images, one in five of them as queries, so hold out at least 5 a class"
        )
    if config.dataset != "digits" and not (Path(config.data_dir) / config.dataset).is_dir():
        yield (
            f"config.data_dir: no data set {Path(config.data_dir) / config.dataset}; prepare it with "
            f"'python -m kdhash prepare', or set --config.data_dir to the folder that holds {config.dataset}/"
        )
    yield from _teacher_problems(config)
    yield from _row_problems("teacher", config.teacher.rows, tuple(config.teacher.forms))
    yield from _row_problems("student", config.student.rows, STUDENT_ROWS)
    fused = [form for form in config.teacher.forms if not form.startswith("single")]
    if config.student.teacher not in fused:
        yield f"config.student.teacher is {config.student.teacher!r}; choose one of {', '.join(fused)}"
        return
    if 0 not in config.evaluate.ks or min(config.evaluate.ks) < 0:
        yield f"config.evaluate.ks is {config.evaluate.ks}; it must hold 0 (mAP over the whole database) and nothing below"
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
    if config.features.get("dtype", "float32") not in DTYPES:
        yield f"config.features.dtype is {config.features.dtype!r}; choose one of {', '.join(DTYPES)}"
    for view in config.features.views:
        if not re.fullmatch(r"original|flip|augment\d+", view):
            yield f"config.features.views names {view!r}; choose from original, flip, augment1, augment2, ..."
    mirrored = ("flip",) if config.student.augment.flip and set(config.student.rows) - {"plain"} else ()
    seen = [
        view for row in config.teacher.rows for view in config.teacher.forms.get(row, {"views": ()})["views"]
    ]
    wanted = (*config.teacher.views, *seen, *config.teacher.validation_views, *mirrored)
    for view in dict.fromkeys(("original", *wanted)):
        if view not in config.features.views:
            yield f"config.features.views lacks {view!r}, which is needed; it has {', '.join(config.features.views)}"
    if config.student.arch not in BACKBONES:
        yield f"config.student.arch is {config.student.arch!r}; choose one of {', '.join(sorted(BACKBONES))}"
    sizes = {
        "features.batch_size": config.features.batch_size,
        "teacher.schedule.batch_size": config.teacher.schedule.batch_size,
        "student.schedule.batch_size": config.student.schedule.batch_size,
    }
    if "pretrain" in config:
        sizes["pretrain.schedule.batch_size"] = config.pretrain.schedule.batch_size
    for field, size in sizes.items():
        if size <= 0 or size % devices:
            yield f"config.{field} is {size}, which {devices} devices do not divide; use a multiple of {devices}"
    for part in ("pretrain", "teacher", "student"):
        if part in config:
            yield from _schedule_problems(part, config[part].schedule)


def _teacher_problems(config: ConfigDict) -> Iterator[str]:
    if len(config.teachers) < 2:
        yield f"config.teachers names {len(config.teachers)}; fusion needs at least two teachers"
    for name, spec in config.teachers.items():
        if name in config.teacher.forms:
            yield f"config.teachers.{name}: the name is taken by a form of fusion; choose another one"
        if "arch" in spec and spec.arch not in BACKBONES:
            yield f"config.teachers.{name}.arch is {spec.arch!r}; choose one of {', '.join(sorted(BACKBONES))}"
        if "pretrain" in config or spec.weights.startswith("hf://"):
            continue  # not there yet: made, or fetched
        try:
            find_source(spec.weights, config.weights_dir)
        except (FileNotFoundError, ValueError) as error:
            yield f"config.teachers.{name}.weights: {error}"


def _row_problems(part: str, rows: tuple[str, ...], known: tuple[str, ...]) -> Iterator[str]:
    for row in rows:
        if row not in known:
            yield f"config.{part}.rows names {row!r}; choose from {', '.join(known)}"


def _schedule_problems(part: str, schedule: ConfigDict) -> Iterator[str]:
    for field in ("epochs", "learning_rate", "log_every", "checkpoint_every_epochs"):
        if schedule[field] <= 0:
            yield f"config.{part}.schedule.{field} is {schedule[field]}; it must be positive"
    if schedule.optimizer not in ("sgd", "adamw"):
        yield f"config.{part}.schedule.optimizer is {schedule.optimizer!r}; choose 'sgd' or 'adamw'"
    if schedule.keep not in ("best", "last"):
        yield f"config.{part}.schedule.keep is {schedule.keep!r}; choose 'best' or 'last'"
    if schedule.epochs > 0 and not 0 <= schedule.warmup_epochs < schedule.epochs:
        yield f"config.{part}.schedule.warmup_epochs is {schedule.warmup_epochs}; it must lie in [0, epochs)"


def flat(config: ConfigDict | dict, prefix: str = "") -> dict[str, object]:
    """{'student.schedule.epochs': 10, ...}: every leaf by its dotted name, tuples as lists (as JSON keeps them)."""
    leaves: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, (ConfigDict, dict)):
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = list(value) if isinstance(value, tuple) else value
    return leaves
