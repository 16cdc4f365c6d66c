"""Data that lie on the devices give the numbers of batches that are read on the host, bit for bit."""

import jax
import numpy as np
import optax
import pytest

from kdhash.training.mapping import data_mesh, make_train_step, put_batch, replicate
from kdhash.training.resident import fits, numbers, place
from kdhash.training.state import create_state
from tests.training.test_mapping import METHODS, noise

ROWS = np.arange(100, 300)


def rows_of(name: str):
    """fetch(rows) of 300 rows, made of the method's batch of 32."""
    whole = {key: np.concatenate([value] * 10)[:300] for key, value in METHODS[name][1].items()}
    whole = {
        key: value + np.arange(300).reshape(-1, *[1] * (value.ndim - 1)).astype(value.dtype) / 64
        if value.dtype == np.float32
        else value
        for key, value in whole.items()
    }
    return lambda rows: {key: value[rows] for key, value in whole.items()}


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("devices", [1, 8])
def test_steps_are_the_same_bit_for_bit(name, devices):
    make, example, _ = METHODS[name]
    method, mesh, fetch = make(), data_mesh(jax.devices()[:devices]), rows_of(name)
    optimizer = optax.sgd(0.1)
    step = make_train_step(method, optimizer, seed=1, mesh=mesh, prepare=noise)
    fresh = jax.jit(lambda: create_state(method, optimizer, example, 0))()
    streamed, resident = replicate(fresh, mesh), replicate(jax.tree.map(np.asarray, fresh), mesh)
    table = place(fetch, ROWS, mesh)
    for seed in range(2):
        places = np.random.default_rng(seed).permutation(len(ROWS))[:32]
        streamed, terms = step(streamed, put_batch(fetch(ROWS[places]), mesh))
        resident, others = step(resident, put_batch(numbers(places), mesh), table)
    jax.tree.map(np.testing.assert_array_equal, (streamed, terms), (resident, others))


def test_what_fits():
    fetch = rows_of("student")
    one, several = (data_mesh(jax.devices()[:count]) for count in (1, 8))
    row = sum(value.nbytes for value in fetch(ROWS[:1]).values())
    many = np.zeros((1 << 20) // row, int)
    assert fits(fetch, many, one, "jit", 1)
    assert not fits(fetch, np.append(many, [0, 0]), one, "jit", 1)
    assert not fits(fetch, many, one, "jit", 0)
    assert not fits(fetch, many, one, "pmap", 1)
    assert not fits(fetch, many, several, "jit", 1)  # one CPU's memory is that of all its devices
