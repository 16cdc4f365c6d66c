"""Weights of Flax networks in Orbax checkpoints: those that kdhash's own runs leave, and those of others."""

from pathlib import Path

import jax
import numpy as np

COLLECTIONS = ("params", "batch_stats")  # what belongs to the network; the optimiser's state does not


def find_checkpoint(folder: Path) -> Path | None:
    """The folder of arrays in `folder`: itself, its one item ('state', 'default'), or that of its newest step.

    None where there is no finished checkpoint. Raises ValueError where a step holds several items.
    """
    steps = sorted((int(path.name), path) for path in folder.iterdir() if path.name.isdigit())
    if steps:
        folder = steps[-1][1]
    if (folder / "_METADATA").is_file():
        return folder
    items = sorted(path.parent for path in folder.glob("*/_METADATA"))
    if len(items) > 1:
        raise ValueError(
            f"{folder} holds {', '.join(path.name for path in items)}; name one of these folders"
        )
    return items[0] if items else None


def read_checkpoint(folder: Path) -> dict[str, np.ndarray]:
    """{'params/dense/kernel': array} of a checkpoint that holds Flax variables, or a train state with them.

    Raises ValueError where it is damaged or has no 'params' at its top.
    """
    import orbax.checkpoint as ocp

    try:
        reader = ocp.PyTreeCheckpointer()
        tree = reader.metadata(folder.absolute()).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = reader.restore(folder.absolute(), ocp.args.PyTreeRestore(restore_args=as_numpy))
    except Exception as error:  # Orbax and TensorStore raise many kinds
        raise ValueError(
            f"{folder}: not a readable Orbax checkpoint ({str(error).splitlines()[0]})"
        ) from None
    if not isinstance(restored, dict) or "params" not in restored:
        raise ValueError(f"{folder}: has {', '.join(map(str, restored))} at its top, but no 'params'")
    paths, _ = jax.tree_util.tree_flatten_with_path(
        {key: restored[key] for key in COLLECTIONS if key in restored}
    )
    return {"/".join(str(key.key) for key in path): np.asarray(leaf) for path, leaf in paths}
