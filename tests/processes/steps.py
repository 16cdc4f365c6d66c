"""One training step of each method, codes of rows that no number divides, and what processes tell each other.

Arguments: a file, and the three of kdhash.main, or none of them for one process. Process 0 writes the numbers into the file.
"""

import argparse
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from kdhash import processes
from kdhash.methods.interface import Method
from kdhash.training.mapping import (
    AXIS,
    data_mesh,
    make_encode,
    make_train_step,
    put_batch,
    raised_anywhere,
    replicate,
)
from kdhash.training.state import TrainState, create_state
from tests.training import test_mapping as mapping_tests

ROWS = 41  # prime: an uneven last batch
SMALL = {"arch": "mlp", "widths": (8,)}  # compiles soon
MAKE: dict[str, Callable[..., Method]] = {
    "student": partial(mapping_tests.student, **SMALL),
    "hasher": partial(mapping_tests.hasher, **SMALL),
    "towers": mapping_tests.towers,
}


def one_step(name: str, mapping: str, mesh: Mesh) -> dict[str, np.ndarray]:
    """Loss terms, the gradient (by plain descent with rate 1) and the new batch statistics, by name."""
    batch = mapping_tests.METHODS[name][1]
    place, count = processes.share_of(mesh)
    size = mapping_tests.BATCH // count
    mine = {key: value[place * size : (place + 1) * size] for key, value in batch.items()}
    method, optimizer = MAKE[name](AXIS if mapping == "pmap" else None), optax.sgd(1.0)
    state = replicate(_initial(jax.eval_shape(lambda: create_state(MAKE[name](), optimizer, mine, 0))), mesh)
    before = jax.device_get(state.params)
    step = make_train_step(method, optimizer, seed=1, mesh=mesh, mapping=mapping, prepare=mapping_tests.noise)
    state, terms = step(state, put_batch(mine, mesh) if mapping == "jit" else mine)
    after, statistics = jax.device_get((state.params, state.batch_stats))
    gradient = jax.tree.map(lambda old, new: old - new, before, after)
    tree = {"terms": jax.device_get(terms), "gradient": gradient, "statistics": statistics}
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {f"{name}{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in leaves}


def _initial(shapes: TrainState) -> TrainState:
    """Numbers as good as any: those that networks begin with would have to be compiled, in each process."""
    rng = np.random.default_rng(0)

    def fill(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        floats = np.issubdtype(leaf.dtype, np.floating)
        return (rng.uniform(0.05, 0.2, leaf.shape) if floats else np.zeros(leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(fill, shapes)


def codes(mesh: Mesh) -> dict[str, np.ndarray]:
    """Of `ROWS` pictures in batches of 16; a process is asked for its own rows only, and all get all codes."""
    batch = mapping_tests.METHODS["student"][1]
    pictures = batch["image"][np.arange(ROWS) % mapping_tests.BATCH]
    method = MAKE["student"]()
    asked: list[int] = []

    def fetch(rows: np.ndarray) -> np.ndarray:
        asked.extend(rows.tolist())
        return pictures[rows]

    variables = _initial(jax.eval_shape(method.init, jax.random.key(0), batch))
    found = make_encode(method, mesh, 16)(variables, fetch, np.arange(ROWS))
    everybody = [row for text in processes.exchange(" ".join(map(str, asked))) for row in text.split()]
    assert sorted(set(map(int, everybody))) == list(range(ROWS))
    assert len(everybody) == 48  # three batches, the last one filled up
    return {"codes": found}


def all_of(mesh: Mesh, hasher: str = "pmap") -> dict[str, np.ndarray]:
    """`hasher`: how the step of the hasher is mapped; those of the others are by 'jit'."""
    found = codes(mesh)
    for name in MAKE:
        found |= one_step(name, hasher if name == "hasher" else "jit", mesh)
    return found


def talk() -> None:
    """All must hear the same, and an error of one must reach all."""
    index, count = jax.process_index(), jax.process_count()
    assert processes.exchange(f"häll{'o' * index}") == [f"häll{'o' * one}" for one in range(count)]
    assert processes.by_first(lambda: {"by": index, "score": 0.1 + 0.2}) == {"by": 0, "score": 0.1 + 0.2}
    assert processes.together(lambda: index) == index

    def fails(who: int) -> None:
        if index == who:
            raise ValueError(f"no data on {who}")

    errors = (ValueError, processes.Elsewhere)
    with pytest.raises(errors, match="^no data on 0" if index == 0 else "process 0: no data on 0"):
        processes.by_first(lambda: fails(0))
    with pytest.raises(errors, match=f"no data on {count - 1}"):
        processes.together(lambda: fails(count - 1))
    with pytest.raises(errors, match="another data than process 0: a and b"):
        processes.agree({"data": "a" if index else "b"})
    ask = raised_anywhere(data_mesh(), delay=2)
    assert [ask(index == count - 1 and call == 1) for call in range(5)] == [False, False, False, True, False]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--coordinator")
    parser.add_argument("--process_count", type=int)
    parser.add_argument("--process_index", type=int)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 1)
    processes.start(coordinator=args.coordinator, count=args.process_count, index=args.process_index)
    several = processes.several()
    if several:
        talk()
        processes.check_shared(args.file.parent)
    found = all_of(data_mesh(), "pmap" if several else "jit")
    digest = hashlib.sha256(b"".join(array.tobytes() for array in found.values())).hexdigest()
    processes.agree({"numbers": digest})
    if processes.first():
        np.savez(args.file, **found)


if __name__ == "__main__":
    main()
