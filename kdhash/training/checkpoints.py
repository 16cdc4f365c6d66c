"""Orbax, behind one small door.

Some of its habits are guarded here: `max_to_keep` with a best function deletes the newest checkpoint when it is not among the
best; saving a step that exists writes nothing and says so only in its return value; and among several processes it saves only
what all of them have a part of.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from kdhash.processes import by_first, share_of

SCORE = "score"
NO_SCORE = float("-inf")  # of a state that was saved without being validated


class Checkpoints:
    """The last and the best checkpoint of one training run, written in the background.

    Each holds the state and its score (larger is better). Of several processes, those that have devices in `mesh` save and read
    together (None: all), and process 0, which must be among them, writes. Used as a context manager; leaving it waits for that.
    """

    def __init__(self, folder: str | Path, mesh: Mesh | None = None):
        self._mesh = mesh
        self._alone = mesh is not None and jax.process_count() > 1 and share_of(mesh)[1] == 1
        policy = AnyPreservationPolicy([LatestN(1), BestN(get_metric_fn=lambda metrics: metrics[SCORE], n=1)])
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=lambda metrics: metrics[SCORE],
            enable_async_checkpointing=True,
            create=not self._alone,
            multiprocessing_options=ocp.options.MultiprocessingOptions(**self._who()),
        )
        if self._alone:
            Path(folder).mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(Path(folder).absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
            return  # another process is gone, and none that is left can finish what is being written
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, step: int, state: Any, score: float = NO_SCORE) -> None:
        """Starts to write `state`, which every device of the mesh holds, as `step`; what becomes of `state` then does not matter.

        Raises RuntimeError where the step exists already.
        """
        # Of arrays on several devices Orbax would have each write a slice, cut by a program that XLA compiles for every shape:
        # seconds. Copies on the host cost each process twice the state's memory while it is written, and students are small.
        args = ocp.args.Composite(state=ocp.args.StandardSave(jax.device_get(state)))
        if not self._manager.save(step, args=args, metrics={SCORE: score}):
            raise RuntimeError(
                f"checkpoint of step {step} was not written: it exists in {self._manager.directory}"
            )

    def latest_step(self) -> int | None:
        return by_first(self._manager.latest_step, self._mesh)

    def best_step(self) -> int | None:
        self._manager.wait_until_finished()
        return by_first(self._manager.best_step, self._mesh)

    def restore(self, step: int, like: Any) -> Any:
        """The state of `step`, with the shapes, types and shardings of `like`."""
        self._manager.wait_until_finished()

        def wanted(leaf: Any) -> Any:
            if self._alone:
                return np.zeros(leaf.shape, leaf.dtype)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

        args = ocp.args.Composite(state=ocp.args.StandardRestore(jax.tree.map(wanted, like)))
        state = self._manager.restore(step, args=args)["state"]
        return jax.tree.map(lambda leaf, model: jax.device_put(leaf, model.sharding), state, like)

    def _who(self) -> dict[str, Any]:
        if not self._alone:
            return {}
        mine = jax.process_index()
        return {"primary_host": mine, "active_processes": {mine}, "barrier_sync_key_prefix": f"process{mine}"}
