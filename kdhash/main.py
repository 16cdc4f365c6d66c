"""The main job: python -m kdhash.main --config configs/dmth_cifar10.py --workdir runs/dmth [--config.bits=32 ...]

Parses and calls; the stages are in kdhash/experiment/run.py.
"""

import os
import re
import shlex
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

QUOTES = "'\""

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/, such as configs/dmth_cifar10.py.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything the run writes; the same one resumes.")


def main(argv: list[str]) -> int:
    from kdhash.config import ConfigError  # after the flags: a wrong one need not wait for imports
    from kdhash.experiment.run import run
    from kdhash.training.loop import TrainingFailed

    if len(argv) > 1:
        return _fail(f"unexpected argument {argv[1]!r}; every option starts with --")
    config, workdir = _CONFIG.value, _WORKDIR.value or ""
    if config.host_devices > 1:
        # A host device that waits for the others in a collective holds a thread of XLA's pool, which has one a core:
        # with fewer threads than devices the last one may never get to run, and XLA aborts.
        os.environ.setdefault("PJRT_NPROC", str(2 * config.host_devices))
        # Several host devices share the work of a CPU's cores better than one does; other platforms ignore this.
        jax.config.update("jax_num_cpu_devices", config.host_devices)
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every rename
    command = "python -m kdhash.main " + shlex.join(sys.argv[1:])
    try:
        run(config, workdir, command=command)
    except (ConfigError, TrainingFailed, FileNotFoundError) as error:
        return _fail(str(error))
    except (
        ValueError,
        ImportError,
    ) as error:  # of bad data or an extra that is missing; or a mistake of ours
        if os.environ.get("KDHASH_TRACEBACK"):
            raise
        return _fail(f"{error} (set KDHASH_TRACEBACK=1 to see where)")
    return 0


def _fail(message: str) -> int:
    print(f"kdhash: {message}", file=sys.stderr)
    return 2


def parse(argv: list[str]) -> list[str]:
    """Parses the flags; a config that is missing, or a field that is unknown or ill-typed, becomes one line."""
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value is None or not _WORKDIR.value:
            raise flags.Error("both are needed: --config configs/x.py --workdir runs/x")
        _CONFIG.value.keys()  # a file that failed to load says so only when its config is used
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        text = str(error.args[0] if error.args else error)
        meant = re.search(r"Did you mean \"(\w+)\" instead of \"(\w+)\"", text)
        if meant:
            text = f"config has no field {meant[2]!r}; did you mean {meant[1]!r}?"
        elif isinstance(error, (AttributeError, KeyError)):
            text = f"config has no field {text.strip(QUOTES)!r}; the fields are those in the config file"
        sys.exit(_fail(" ".join(text.replace("\\n", " ").split())))
    return rest


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
