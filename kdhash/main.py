"""The main job: python -m kdhash.main --config configs/dmth_cifar10.py --workdir runs/dmth [--config.bits=32 ...]

Parses and calls; the stages are in kdhash/experiment/run.py. One host needs no more; several: docs/launch.md.
"""

import os
import shlex
import sys

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from kdhash import compilation, processes, stopping
from kdhash.absent import absent_field

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/, such as configs/dmth_cifar10.py.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything the run writes; the same one resumes.")
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    processes.MODES,
    "Whether this is one of several processes. auto: with --coordinator, and under Slurm, Open MPI and GKE's TPU slices; "
    "on: asks JAX for the others, as on a TPU VM.",
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, the same for all.")
_COUNT = flags.DEFINE_integer("process_count", None, "With --coordinator: how many processes there are.")
_INDEX = flags.DEFINE_integer("process_index", None, "With --coordinator: which one this is, from 0.")
_CONNECT = flags.DEFINE_integer("connect_timeout", 300, "Seconds to wait for all processes to come.")
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_timeout", 100, "Seconds after which a process that is gone ends the others, at the latest."
)
_GRACE = flags.DEFINE_float("grace_seconds", 20, "After SIGTERM: seconds to save and leave.")
_STOPPED = flags.DEFINE_integer("stopped_exit_code", 0, "Exit code after SIGTERM.")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        return _fail(f"unexpected argument {argv[1]!r}; every option starts with --")
    try:
        return _main(_CONFIG.value, _WORKDIR.value or "")
    except BaseException:
        if not processes.several():
            raise
        logging.exception("%s", _name())
        return _leave(1)


def _main(config: ConfigDict, workdir: str) -> int:
    _set_up_cpu(config)
    compilation.keep_programs(config.get("compilation_cache_dir", ""), workdir)
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every rename
    try:
        processes.start(
            _DISTRIBUTED.value,
            coordinator=_COORDINATOR.value,
            count=_COUNT.value,
            index=_INDEX.value,
            connect_timeout=_CONNECT.value,
            heartbeat_timeout=_HEARTBEAT.value,
        )
    except ValueError as error:
        return _fail(str(error))
    except ConnectionError as error:
        return _fail(str(error), code=1)
    stopping.listen(_GRACE.value, _STOPPED.value)

    # after all that can be wrong with flags, which need not wait for imports
    from kdhash.config import ConfigError
    from kdhash.experiment.run import run
    from kdhash.training.loop import TrainingFailed

    try:
        run(config, workdir, command="python -m kdhash.main " + shlex.join(sys.argv[1:]))
    except stopping.Stopped as stopped:
        return _stop(str(stopped))
    except jax.errors.JaxRuntimeError as error:
        if not processes.several():
            raise
        if stopping.asked():
            return _stop("another process left first; the last checkpoint is kept")
        return _fail(
            f"another process of this run is gone, or its machine is out of reach ({str(error).splitlines()[0]}). Start all "
            "again with the same --workdir: the run goes on from its last checkpoint, also with fewer or more processes",
            code=1,
        )
    except (ConfigError, TrainingFailed, FileNotFoundError) as error:
        return _fail(str(error))
    except processes.Elsewhere as error:
        return _fail(str(error), code=1)
    except OSError as error:
        if os.environ.get("KDHASH_TRACEBACK"):
            raise
        return _fail(f"{str(error) or type(error).__name__} (set KDHASH_TRACEBACK=1 to see where)", code=1)
    except (ValueError, ImportError) as error:
        # of bad data or an extra that is missing; or a mistake of ours
        if os.environ.get("KDHASH_TRACEBACK"):
            raise
        return _fail(f"{error} (set KDHASH_TRACEBACK=1 to see where)")
    return 0


def _set_up_cpu(config: ConfigDict) -> None:
    devices = config.get("host_devices", 1)
    if devices > 1:
        # A host device that waits for the others in a collective holds a thread of XLA's pool, which has one a core:
        # with fewer threads than devices the last one may never get to run, and XLA aborts.
        os.environ.setdefault("PJRT_NPROC", str(2 * devices))
        # Several host devices share the work of a CPU's cores better than one does; other platforms ignore this.
        jax.config.update("jax_num_cpu_devices", devices)


def _stop(what: str) -> int:
    if not processes.several() or processes.first():
        print(f"kdhash: SIGTERM: {what}. The same command goes on from there", file=sys.stderr, flush=True)
    if processes.several():
        jax.distributed.shutdown()  # waits for the others, which stop too; without process 0 they would be ended
    return _leave(_STOPPED.value)


def _fail(message: str, code: int = 2) -> int:
    """2: the same command fails again; 1: it may go well another time."""
    print(f"{_name()}: {message}", file=sys.stderr)
    return _leave(code)


def _leave(code: int) -> int:
    """The code; of several processes, none waits for the others, which may be waiting for it."""
    if processes.several():
        processes.leave(code)
    return code


def _name() -> str:
    return (
        f"kdhash, process {jax.process_index()} of {jax.process_count()}" if processes.several() else "kdhash"
    )


def parse(argv: list[str]) -> list[str]:
    """Parses the flags; a config that is missing, or a field that is unknown or ill-typed, becomes one line."""
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value is None or not _WORKDIR.value:
            raise flags.Error("both are needed: --config configs/x.py --workdir runs/x")
        _CONFIG.value.keys()  # a file that failed to load says so only when its config is used
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        text = repr(error) if isinstance(error, KeyError) else str(error.args[0] if error.args else error)
        if absent := absent_field(error):
            hint = (
                f"did you mean {absent.near!r}?" if absent.near else "the fields are those in the config file"
            )
            text = f"config has no field {absent.field!r}; {hint}"
        sys.exit(_fail(" ".join(text.replace("\\n", " ").split())))
    return rest


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
