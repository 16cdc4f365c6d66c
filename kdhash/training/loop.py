"""The training loop: one visible function."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from kdhash import stopping
from kdhash.methods.interface import Batch, Method, Variables
from kdhash.processes import share_of
from kdhash.progress import Progress
from kdhash.training.checkpoints import Checkpoints
from kdhash.training.idle import DeviceClock
from kdhash.training.mapping import (
    Prepare,
    look_up,
    make_train_step,
    put_batch,
    raised_anywhere,
    replicate,
)
from kdhash.training.metric_log import MetricLog
from kdhash.training.state import create_state, make_optimizer
from kdhash.training.trace import Profile, Trace

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # of what runs once
IN_FLIGHT = 2  # steps handed to the devices ahead of the one that they work on


class Schedule(NamedTuple):
    """How long and how fast to train. Steps count global batches."""

    steps: int
    batch_size: int
    optimizer: str
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    clip_norm: float
    checkpoint_every: int  # steps between validations, each followed by a checkpoint
    log_every: int
    keep: str  # 'best' (by validation score) or 'last'
    microbatches: int = 1  # parts that a batch goes through the network in


class Batches(Protocol):
    """Random access by step: `batches[step]` is this process's share (of those in the mesh) of that step's global batch."""

    def __getitem__(self, step: int) -> Batch: ...


Prefetch = Callable[[Batches, int, Callable[[Batch], Any]], Any]


class TrainingFailed(RuntimeError):
    """A loss term stopped being a number."""


def train(
    method: Method,
    batches: Batches,
    schedule: Schedule,
    folder: str | Path,
    *,
    label: str,
    seed: int,
    mesh: Mesh,
    mapping: str = "jit",
    prepare: Prepare | None = None,
    validate: Callable[[Variables], float] | None = None,
    prefetch: Prefetch | None = None,
    table: Batch | None = None,
    profile: Profile | None = None,
) -> Variables:
    """Trains `method` and returns its variables: those of the best validation score, or the last (`schedule.keep`).

    The same `folder` resumes at its last checkpoint and ends in the same parameters, bit for bit: batches and random
    numbers are functions of `seed` and the step alone. `validate(variables)` gives a score, larger is better; without it
    the last parameters are the best. `table`: the data, where they lie on the devices; batches then hold the numbers of rows.
    To be called by all processes that have devices in `mesh`; one of them writes and speaks.
    Raises TrainingFailed naming the step and the term where a loss is not finite, and Stopped, with a checkpoint of that very
    step, where one of the processes got SIGTERM.
    """
    folder = Path(folder)
    speaks = share_of(mesh)[0] == 0
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = make_optimizer(
        schedule.optimizer,
        learning_rate=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
        warmup_steps=schedule.warmup_steps,
        steps=schedule.steps,
        clip_norm=schedule.clip_norm,
    )
    step_fn = make_train_step(
        method,
        optimizer,
        seed=seed,
        mesh=mesh,
        mapping=mapping,
        prepare=prepare,
        microbatches=schedule.microbatches,
    )
    put = (lambda batch: put_batch(batch, mesh)) if mapping == "jit" else (lambda batch: batch)
    stop_anywhere = raised_anywhere(mesh, IN_FLIGHT)
    with Checkpoints(folder / "checkpoints", mesh) as checkpoints:
        example = _prepared(prepare, batches[0], table)
        # on CPUs each operation's program, or the best one of all, would take several seconds to compile, this takes one
        quick = QUICK if mesh.devices.flat[0].platform == "cpu" else None
        create = jax.jit(lambda: create_state(method, optimizer, example, seed), compiler_options=quick)
        state = replicate(create(), mesh)
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        start = checkpoints.latest_step() or 0
        if start:
            state = checkpoints.restore(start, like)
        log = MetricLog(folder, start, writes=speaks)
        watch = Progress(label, schedule.steps, "steps", start) if speaks else None
        stream = _plain_stream(batches, start, put) if prefetch is None else prefetch(batches, start, put)
        clock = DeviceClock(inline=mesh.devices.flat[0].platform == "cpu")
        pending: list[tuple[int, dict[str, jax.Array]]] = []
        score = math.nan
        try:
            with Trace(profile if speaks else None, start, schedule.steps) as trace:
                for step in range(start + 1, schedule.steps + 1):
                    batch = next(stream)
                    if trace.before(step, state):
                        clock.restart()
                    called = time.perf_counter()
                    state, terms = step_fn(state, batch, table)
                    if step == start + 1:
                        clock.restart()  # it was compiled
                    clock.handed(called, terms, batch)
                    if trace.after(step, terms):
                        clock.restart()
                    pending.append((step, terms))
                    if len(pending) > IN_FLIGHT:
                        jax.block_until_ready(pending[-1 - IN_FLIGHT][1])
                    last = step == schedule.steps
                    kept = last or step % schedule.checkpoint_every == 0
                    stop = stop_anywhere(stopping.asked()) and not last
                    if kept or stop or step % schedule.log_every == 0:
                        loss = _write(log, pending, clock)
                        note = f"loss {loss:.4f}" + ("" if math.isnan(score) else f"  validation {score:.4f}")
                        if watch:
                            watch.update(step, note, schedule.batch_size, "examples")
                    if kept:
                        score = float(step) if validate is None else validate(state.variables)
                        if not math.isfinite(score):
                            raise TrainingFailed(f"step {step}: the validation score is {score}")
                        if validate is not None:
                            log.write(step, {"validation": score})
                        checkpoints.save(step, replicate(state, mesh), score)
                        clock.restart()
                    elif stop:
                        checkpoints.save(step, replicate(state, mesh))
                    if stop:
                        raise stopping.Stopped(f"{label}: saved after step {step} of {schedule.steps}")
        finally:
            if watch:
                watch.close()
            clock.close()
            log.close()
            stream.close()
        best = checkpoints.best_step()
        if schedule.keep == "best" and best is not None and best != schedule.steps:
            state = checkpoints.restore(best, like)
    return state.variables


def _write(log: MetricLog, pending: list[tuple[int, dict[str, jax.Array]]], clock: DeviceClock) -> float:
    """Logs the mean of the terms since the last line, after looking at every step's for the first that is not finite; and the
    devices' time."""
    steps = [(step, {name: float(value) for name, value in terms.items()}) for step, terms in pending]
    for step, terms in steps:
        for name, value in sorted(terms.items(), key=lambda item: item[0] == "loss"):
            if not math.isfinite(value):
                raise TrainingFailed(
                    f"step {step}: the term {name!r} is {value}; lower the learning rate, or set clip_norm. "
                    "The last checkpoint is from before this step"
                )
    means = {name: float(np.mean([terms[name] for _, terms in steps])) for name in steps[0][1]}
    log.write(steps[-1][0], means | clock.read())
    pending.clear()
    return means["loss"]


def _prepared(prepare: Prepare | None, batch: Batch, table: Batch | None) -> Batch:
    """One example of the shapes that the method's forward will see; nothing is computed for it."""

    def make(keys: jax.Array, batch: Batch, table: Batch | None) -> Batch:
        batch = look_up(table, batch)
        return batch if prepare is None else prepare(keys, batch)

    one = jax.tree.map(lambda x: np.asarray(x[:1]), batch)
    shapes = jax.eval_shape(make, jax.random.split(jax.random.key(0), 1), one, table)
    return jax.tree.map(lambda like: np.zeros(like.shape, like.dtype), shapes)


def _plain_stream(batches: Batches, start: int, put: Callable[[Batch], Any]):
    step = start
    while True:
        yield put(batches[step])
        step += 1
