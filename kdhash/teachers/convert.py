"""Foreign weight names to Flax variables: a table of names, checked both ways."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

# How one source array becomes one Flax array.
TRANSFORMS = {
    "keep": lambda w: w,
    "conv": lambda w: w.transpose(2, 3, 1, 0),  # out, in, h, w -> h, w, in, out
    "dense": lambda w: w.T,  # out, in -> in, out
    "flat": lambda w: w.reshape(-1),  # one number a channel, however it is kept
    "flat_dense": lambda w: w.reshape(len(w), -1).T,  # a dense layer that may be kept as a 1x1 convolution
    # A dense layer over a 7x7 map of channels first, flattened or not, as a convolution of that size.
    "conv7": lambda w: w.reshape(len(w), -1, 7, 7).transpose(2, 3, 1, 0),
    "rows": lambda w: w.reshape(-1, w.shape[-1]),  # tokens and tables of them, with or without a batch axis
}

# 'params/stem/kernel' -> (source name, transform). Several source names are joined along their first axis before the
# transform: query, key and value of a source that keeps them apart.
NameMap = Mapping[str, tuple[str | tuple[str, ...], str]]


def convert(
    state: Mapping[str, np.ndarray],
    names: NameMap,
    template: Any,
    *,
    source: str,
) -> Any:
    """Fills the variables of `template` (a tree of shapes, from `jax.eval_shape`) from a foreign state dict.

    Every variable must be named once in `names`, every source array used exactly once, and every shape fit. Raises
    ValueError that lists all leftovers, gaps and misfits at once.
    """
    paths, tree = jax.tree_util.tree_flatten_with_path(template)
    wanted = {"/".join(key.key for key in path): leaf for path, leaf in paths}
    used = [name for sources, _ in names.values() for name in several(sources)]
    problems = [
        *_listed("variables without an entry in the name map", sorted(set(wanted) - set(names))),
        *_listed("name map entries without a variable", sorted(set(names) - set(wanted))),
        *_listed("weights missing from the file", sorted(set(used) - set(state))),
        *_listed("weights left over in the file", sorted(set(state) - set(used))),
        *_listed("weights used twice", sorted({name for name in used if used.count(name) > 1})),
    ]
    filled = {}
    for target, (sources, transform) in names.items():
        if target not in wanted or not all(name in state for name in several(sources)):
            continue
        parts = [state[name] for name in several(sources)]
        try:
            array = TRANSFORMS[transform](np.concatenate(parts) if len(parts) > 1 else parts[0])
        except ValueError as error:
            problems.append(f"{', '.join(several(sources))}: {error}")
            continue
        if array.shape != wanted[target].shape:
            problems.append(
                f"{', '.join(several(sources))} gives shape {array.shape}, {target} needs {wanted[target].shape}"
            )
        filled[target] = np.asarray(array, dtype=wanted[target].dtype)
    if problems:
        raise ValueError(f"{source}: the weights do not fit this architecture: " + "; ".join(problems))
    return jax.tree_util.tree_unflatten(tree, [filled[name] for name in wanted])


def several(sources: str | tuple[str, ...]) -> tuple[str, ...]:
    """The source names of one entry of a name map."""
    return (sources,) if isinstance(sources, str) else sources


def _listed(what: str, names: list[str]) -> list[str]:
    return [f"{what}: {', '.join(names)}"] if names else []
