"""`check_config`, and what it asks of every config alike."""

from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from kdhash.absent import absent_field
from kdhash.config.brcd import brcd_problems
from kdhash.config.dmth import dmth_problems
from kdhash.config.fields import flat, is_seed
from kdhash.config.kdcmh import kdcmh_problems
from kdhash.teachers.registry import DTYPES

METHODS = ("dmth", "brcd", "kdcmh")
PROTOCOLS = ("cifar10-1", "cifar10-2", "cifar10-brcd", "holdout")


class ConfigError(ValueError):
    """A config that cannot be run; the message has one line a problem."""


def check_config(config: ConfigDict, *, devices: int) -> None:
    """Raises ConfigError listing every problem of `config` that can be known before work: one line each.

    `devices` is the number of devices that batches are divided over.
    """
    try:
        problems = list(_problems(config, devices))
    except (AttributeError, KeyError) as error:
        absent = absent_field(error)
        if absent is None:
            raise
        instead = f", but {absent.near!r}" if absent.near else ""
        raise ConfigError(
            f"config has no field {absent.field!r}{instead}; config.method {config.get('method')!r} needs it: see configs/"
        ) from error
    if problems:
        raise ConfigError("\n".join(problems))


def _problems(config: ConfigDict, devices: int) -> Iterator[str]:
    empty = [name for name, value in flat(config).items() if value is None]
    if empty:
        yield f"config.{empty[0]} is None; give it a value, or its fields if it is a group: see configs/"
        return
    if config.method not in METHODS:
        yield f"config.method is {config.method!r}; choose one of {', '.join(METHODS)}"
        return
    yield from _common_problems(config)
    if config.method == "kdcmh":
        yield from kdcmh_problems(config, devices)
        return
    yield from _labelled_problems(config)
    yield from {"dmth": dmth_problems, "brcd": brcd_problems}[config.method](config, devices)


def _common_problems(config: ConfigDict) -> Iterator[str]:
    if config.bits <= 0 or config.bits % 8:
        yield f"config.bits is {config.bits}; codes are packed 8 bits a byte, so use a multiple of 8 such as 16, 32 or 64"
    for field in ("seed", "protocol_seed"):
        if not is_seed(seed := config.get(field, 0)):
            yield f"config.{field} is {seed!r}; give a whole number from 0 to 2^32 - 1"
    if config.mapping not in ("jit", "pmap"):
        yield f"config.mapping is {config.mapping!r}; choose 'jit' or 'pmap'"
    if not isinstance(steps := config.get("profile", 0), int) or steps < 0:
        yield f"config.profile is {steps!r}; give how many steps of each training to trace, or 0"
    if not isinstance(mib := config.get("resident_mib", 0), int) or mib < 0:
        yield f"config.resident_mib is {mib!r}; give a whole number of MiB, or 0 to leave all training data on the host"
    if 0 not in config.evaluate.ks or min(config.evaluate.ks) < 0:
        yield f"config.evaluate.ks is {config.evaluate.ks}; it must hold 0 (mAP over the whole database) and nothing below"
    if not isinstance(remat := config.get("remat", False), bool):
        yield f"config.remat is {remat!r}; give True or False"
    for field, name in (("compilation_cache_dir", ".jax_cache"), ("data_cache_dir", ".data_cache")):
        if not isinstance(folder := config.get(field, ""), str):
            yield f"config.{field} is {folder!r}; give a folder, '' for {name} beside the workdir, or 'off'"
    for field, dtype in (
        ("dtype", config.get("dtype", "float32")),
        ("features.dtype", config.features.get("dtype", "float32")),
    ):
        if dtype not in DTYPES:
            yield f"config.{field} is {dtype!r}; choose one of {', '.join(DTYPES)}"


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
