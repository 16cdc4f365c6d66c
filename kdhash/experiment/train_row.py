"""One trained row of a comparison: a folder with its checkpoints, logs, final weights, and a note that it is done."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from kdhash import stopping
from kdhash.data import batches, device_prefetch
from kdhash.experiment.context import Run
from kdhash.experiment.workdir import begin, finish, finished
from kdhash.methods.interface import Method, Variables
from kdhash.processes import appear, by_first, share_of
from kdhash.teachers.registry import load_variables, save_variables
from kdhash.training.loop import Schedule, train
from kdhash.training.mapping import Prepare
from kdhash.training.metric_log import read_metrics
from kdhash.training.resident import fits, numbers, place
from kdhash.training.trace import Profile

WEIGHTS = "model.safetensors"


class Trained(NamedTuple):
    """The variables of a finished training, their score on validation pictures, and the seconds it took."""

    variables: Variables
    validation: float
    seconds: float


def train_row(
    run: Run,
    place: str,
    inputs: str,
    method: Method,
    fetch: Callable[[np.ndarray], dict[str, Any]],
    schedule: ConfigDict,
    *,
    example: dict[str, Any],
    prepare: Prepare,
    validate: Callable[[Variables], float],
    with_epoch: bool = False,
) -> Trained:
    """Trains `method` in workdir/`place`, or reads what an earlier start trained there on the same `inputs`: to be called by all
    processes. Where the run's mesh is this process's own (a head's), process 0 trains on its own, and all read what it wrote.

    `fetch(rows)` gives the raw batch, to which `with_epoch` adds 'epoch'; `example` is a batch of one, as the method's init
    takes it (shapes are enough).
    """
    folder = run.workdir / place
    stopping.check()
    notes = by_first(lambda: finished(folder, inputs))
    if notes is None:

        def work() -> dict[str, Any]:
            return _train(run, folder, inputs, method, fetch, schedule, prepare, validate, with_epoch)

        # on a mesh of its own the first process trains for all
        notes = work() if share_of(run.mesh)[1] == jax.process_count() else by_first(work)
    template = jax.eval_shape(method.init, jax.random.key(0), example)
    variables = load_variables(appear(folder / WEIGHTS), template)
    return Trained(variables, notes["validation"], notes["seconds"])


def _train(
    run: Run, folder: Path, inputs, method, fetch, schedule, prepare, validate, with_epoch
) -> dict[str, Any]:
    run.by_first(lambda: str(begin(folder, inputs, run.hardware())))
    start = time.perf_counter()
    rows, table = run.protocol.train, None
    if fits(fetch, rows, run.mesh, run.config.mapping, run.config.get("resident_mib", 0)):
        table = place(fetch, rows, run.mesh)
        fetch, rows = numbers, np.arange(len(rows))
    variables = train(
        method,
        _training_batches(run, fetch, rows, schedule.batch_size, with_epoch),
        schedule_of(schedule, len(run.protocol.train)),
        folder,
        label=f"{folder.parent.name} {folder.name}",
        seed=run.config.seed,
        mesh=run.mesh,
        mapping=run.config.mapping,
        prepare=prepare,
        validate=validate,
        prefetch=device_prefetch,
        table=table,
        profile=Profile(
            run.config.get("profile", 0), run.workdir / "profile" / folder.relative_to(run.workdir)
        ),
    )
    seconds = time.perf_counter() - start
    notes = {"validation": validate(variables), "seconds": seconds}

    def keep() -> dict[str, Any]:
        save_variables(folder / WEIGHTS, variables)
        return finish(folder, inputs, notes)

    return run.by_first(keep)


def curves_of(folder: Path) -> dict[str, list[float]]:
    """What a row's training logged, for a figure: loss by step, and mAP among validation pictures."""
    lines = read_metrics(folder)
    losses = [line for line in lines if "loss" in line]
    scored = [line for line in lines if "validation" in line]
    return {
        "step": [line["step"] for line in losses],
        "loss": [line["loss"] for line in losses],
        "validation_step": [line["step"] for line in scored],
        "validation_map": [line["validation"] for line in scored],
    }


def _training_batches(
    run: Run, fetch: Callable[[np.ndarray], Any], rows: np.ndarray, batch_size: int, with_epoch: bool
) -> grain.MapDataset:
    """This process's share of the global batches of `rows`, by step."""
    place, count = share_of(run.mesh)
    return batches(
        fetch,
        rows,
        batch_size=batch_size,
        seed=run.config.seed,
        process_index=place,
        process_count=count,
        with_epoch=with_epoch,
    )


def schedule_of(config: ConfigDict, rows: int) -> Schedule:
    """A schedule in epochs (config.*.schedule) as a schedule in steps, for `rows` training pictures."""
    per_epoch = max(1, rows // config.batch_size)
    return Schedule(
        steps=max(1, round(config.epochs * per_epoch)),
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=round(config.warmup_epochs * per_epoch),
        clip_norm=config.clip_norm,
        checkpoint_every=max(1, round(config.checkpoint_every_epochs * per_epoch)),
        log_every=config.log_every,
        keep=config.keep,
        microbatches=config.get("microbatches", 1),
    )
