"""Orbax, behind one small door.

Two of its habits are guarded here: `max_to_keep` with a best function deletes the newest checkpoint when it is not among
the best, and saving a step that exists writes nothing and says so only in its return value.
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

SCORE = "score"


class Checkpoints:
    """The last and the best checkpoint of one training run, written in the background.

    Each holds the state and its score (larger is better). Used as a context manager; leaving it waits for the writes.
    """

    def __init__(self, folder: str | Path):
        policy = AnyPreservationPolicy([LatestN(1), BestN(get_metric_fn=lambda metrics: metrics[SCORE], n=1)])
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=lambda metrics: metrics[SCORE],
            enable_async_checkpointing=True,
        )
        self._manager = ocp.CheckpointManager(Path(folder).absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_error: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, step: int, state: Any, score: float) -> None:
        """Starts to write `state` as `step`. Raises RuntimeError where the step exists already."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(state))
        if not self._manager.save(step, args=args, metrics={SCORE: score}):
            raise RuntimeError(
                f"checkpoint of step {step} was not written: it exists in {self._manager.directory}"
            )

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        self._manager.wait_until_finished()
        return self._manager.best_step()

    def restore(self, step: int, like: Any) -> Any:
        """The state of `step`, with the shapes, types and shardings of `like`."""
        self._manager.wait_until_finished()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        )
        return restored["state"]
