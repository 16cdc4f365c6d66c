"""Checks of single fields and of small groups of them, which the methods' own checks are made of.

Each yields a line a problem: the field's dotted name, its value, and what to do. Numbers are judged by their names.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from kdhash.models.backbones import IN_BLOCKS
from kdhash.teachers.sources import find_source

# Of fields and options of these names, wherever the config of a hasher has them.
POSITIVE = ("k_left", "k_right", "mu", "scale", "temperature", "starts")
WHOLE = ("pairs", "words", "image_hidden", "text_hidden", "teacher_hidden", "hidden", "starts", "count")
NOT_NEGATIVE = (
    *("l1", "l2", "intra", "quantization", "balance", "weight", "distance", "angle", "kl_weight", "gamma"),
    *WHOLE,
)

# What every schedule has.
SCHEDULE = (
    *("epochs", "batch_size", "optimizer", "learning_rate", "weight_decay", "warmup_epochs", "clip_norm"),
    *("checkpoint_every_epochs", "log_every", "keep"),
)


def flat(config: ConfigDict | dict, prefix: str = "") -> dict[str, object]:
    """{'student.schedule.epochs': 10, ...}: every leaf by its dotted name, tuples as lists (as JSON keeps them)."""
    leaves: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, (ConfigDict, dict)):
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = list(value) if isinstance(value, tuple) else value
    return leaves


def weights_problems(field: str, spec: ConfigDict, weights_dir: str) -> Iterator[str]:
    if spec.weights.startswith("hf://"):
        return  # not there yet: fetched
    try:
        find_source(spec.weights, weights_dir)
    except (FileNotFoundError, ValueError) as error:
        yield f"{field}.weights: {error}"


def seed_problems(config: ConfigDict) -> Iterator[str]:
    if not config.seeds or len(set(config.seeds)) != len(config.seeds):
        yield f"config.seeds is {tuple(config.seeds)}; give one or more different numbers"
    elif not all(is_seed(seed) for seed in config.seeds):
        yield f"config.seeds is {tuple(config.seeds)}; give whole numbers from 0 to 2^32 - 1"


def batch_problems(sizes: dict[str, int], devices: int) -> Iterator[str]:
    for field, size in sizes.items():
        if size <= 0 or size % devices:
            yield f"config.{field} is {size}, which {devices} devices do not divide; use a multiple of {devices}"


def remat_problems(config: ConfigDict, archs: Iterable[str] = ()) -> Iterator[str]:
    """`archs` are those of the networks that are trained as a whole."""
    if config.get("remat", False) and not set(archs) & set(IN_BLOCKS):
        yield (
            "config.remat is True, but no network that is trained here is made of blocks; set it to False, or choose one of "
            f"{', '.join(IN_BLOCKS)}"
        )


def row_problems(part: str, rows: tuple[str, ...], known: tuple[str, ...]) -> Iterator[str]:
    for row in rows:
        if row not in known:
            yield f"config.{part}.rows names {row!r}; choose from {', '.join(known)}"


def form_row_problems(student: ConfigDict, *, taken: tuple[str, ...]) -> Iterator[str]:
    """`taken` are the names of what else lies beside the students in seedN/."""
    forms = tuple(student.forms)
    if not student.rows:
        yield f"config.student.rows is empty; name one form or more of {', '.join(forms)}"
    if len(set(student.rows)) != len(student.rows):
        yield f"config.student.rows is {tuple(student.rows)}; give each row once"
    yield from row_problems("student", student.rows, forms)
    for name in taken:
        if name in forms:
            yield f"config.student.forms.{name}: the name is taken in the workdir; choose another one"


def schedule_problems(place: str, schedule: ConfigDict, devices: int) -> Iterator[str]:
    missing = [field for field in SCHEDULE if field not in schedule]
    if missing:
        yield f"config.{place} has no {', '.join(missing)}"
        return
    parts = schedule.get("microbatches", 1)
    if not isinstance(parts, int) or parts < 1:
        yield f"config.{place}.microbatches is {parts!r}; give a whole number from 1 on"
    elif parts > 1 and schedule.batch_size % (parts * devices):
        yield (
            f"config.{place}.microbatches is {parts}, and {parts} parts for {devices} devices do not divide batch_size, "
            f"{schedule.batch_size}; use a batch_size that is a multiple of {parts * devices}"
        )
    for field in ("epochs", "learning_rate", "log_every", "checkpoint_every_epochs"):
        if schedule[field] <= 0:
            yield f"config.{place}.{field} is {schedule[field]}; it must be positive"
    if schedule.optimizer not in ("sgd", "adamw"):
        yield f"config.{place}.optimizer is {schedule.optimizer!r}; choose 'sgd' or 'adamw'"
    if schedule.keep not in ("best", "last"):
        yield f"config.{place}.keep is {schedule.keep!r}; choose 'best' or 'last'"
    if schedule.epochs > 0 and not 0 <= schedule.warmup_epochs < schedule.epochs:
        yield f"config.{place}.warmup_epochs is {schedule.warmup_epochs}; it must lie in [0, epochs)"


def share_problems(field: str, shares: Any) -> Iterator[str]:
    fine = isinstance(shares, (tuple, list)) and len(shares) == 3 and all(map(is_number, shares))
    if not fine or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        yield f"{field} is {shares!r}; give three shares that sum to 1"


def number_problems(place: str, values: Mapping[str, Any], names: Iterable[str]) -> Iterator[str]:
    for name in names:
        value: Any = values.get(name)
        if not is_number(value) or (name in WHOLE and not isinstance(value, int)):
            yield f"{place}.{name} is {value!r}; give a {'whole ' if name in WHOLE else ''}number"
        elif name in POSITIVE and value <= 0:
            yield f"{place}.{name} is {value}; it must be positive"
        elif name in NOT_NEGATIVE and value < 0:
            yield f"{place}.{name} is {value}; it must not be negative"


def range_problems(
    field: str, value: Any, least: float, most: float, *, below: bool = False
) -> Iterator[str]:
    """`below`: `most` itself is too much."""
    if not is_number(value):
        yield f"{field} is {value!r}; give a number"
    elif not least <= value <= most or (below and value == most):
        yield f"{field} is {value}; it must lie in [{least:g}, {most:g}{')' if below else ']'}"


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_seed(value: Any) -> bool:
    """Whether all that draws from it takes it: NumPy none below 0, scikit-learn and JAX no more than 32 bits."""
    return isinstance(value, int) and 0 <= value < 2**32


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Its keyword-only options with their defaults, `REQUIRED` where there is none."""
    options = inspect.signature(function).parameters.items()
    return {name: option.default for name, option in options if option.kind is option.KEYWORD_ONLY}


REQUIRED = inspect.Parameter.empty


def option_problems(
    field: str, form: ConfigDict, own: Mapping[str, Any], elsewhere: Mapping[str, str]
) -> Iterator[str]:
    """Of names alone: `own` are the options of the form's kind with their defaults, `elsewhere` says of others where they come
    from."""
    for name in form:
        if name in elsewhere:
            yield f"{field}.{name}: {elsewhere[name]}; take it out"
        elif name != "kind" and name not in own:
            known = f"choose from {', '.join(own)}" if own else "it has none"
            yield f"{field}.{name} is no option of the kind {form.kind!r}; {known}"
    for name, default in own.items():
        if default is REQUIRED and name not in form:
            yield f"{field}.{name} is missing; the kind {form.kind!r} needs it"
