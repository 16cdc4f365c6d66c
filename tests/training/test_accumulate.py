"""Parts of a batch, one after the other, give the gradient of the whole batch's loss."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdhash.methods.brcd import brcd, distilled
from kdhash.methods.cibhash import cibhash
from kdhash.methods.dmth import LossWeights, hash_student
from kdhash.methods.interface import Method
from kdhash.models.hash_head import HashHead
from kdhash.models.hasher import Hasher
from kdhash.training.loop import QUICK
from kdhash.training.mapping import data_mesh, make_train_step, put_batch, replicate
from kdhash.training.state import create_state, make_optimizer
from tests.training.test_mapping import BATCH, batch_of, noise, pairs_of, towers, views_of


def student() -> Method:
    """Codes, their relations and balance: losses over pairs and over the batch's mean. The network is its head: no batch norm."""
    weights, head = LossWeights(quantization=0.1, balance=1.0, code=1.0, relation=1.0), HashHead(16, 3)
    whole = hash_student(
        arch="mlp", sizes={}, bits=16, classes=3, mean=(0.5,) * 3, std=(0.5,) * 3, weights=weights
    )

    def forward(variables, batch, keys, *, train):
        return head.apply(variables, batch["image"].reshape(len(batch["image"]), -1)), {}

    def init(rng, batch):
        return head.init(rng, batch["image"].reshape(BATCH, -1))

    return whole._replace(init=init, forward=forward)


def hasher(hidden: int = 8) -> Method:
    """A contrastive base, and BRCD's contrast of all codes of the batch."""
    base = cibhash(Hasher(bits=16, hidden=hidden))
    centers = jnp.asarray(np.sign(np.random.default_rng(0).normal(size=(3, 16))), jnp.float32)
    return distilled(base, brcd(centers, jnp.ones((3, 16)), temperature=0.3))


def heads_of():
    rng = np.random.default_rng(0)
    batch = {name: value.reshape(BATCH, -1)[:, :12] for name, value in views_of().items()}
    codes = {
        f"teacher_codes_{view}": np.sign(rng.normal(size=(BATCH, 16))).astype(np.float32) for view in "ij"
    }
    return batch | codes | {"cluster": rng.integers(0, 3, BATCH).astype(np.int32)}


def drop(keys, batch):
    """A preparation that draws from every example's key, for any inputs."""
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 0.8))(keys)
    inputs = ("view_i", "view_j")
    return {
        name: value * kept.reshape(-1, *[1] * (value.ndim - 1)) if name in inputs else value
        for name, value in batch.items()
    }


METHODS = {
    "student": (student, batch_of(), noise),
    "hasher": (hasher, heads_of(), drop),
    "towers": (towers, pairs_of(), noise),
}


@functools.cache
def fresh_state(name: str):
    make, batch, _ = METHODS[name]
    create = jax.jit(lambda: create_state(make(), optax.sgd(1.0), batch, 0), compiler_options=QUICK)
    return jax.device_get(create())


def one_step(name: str, devices: int, mapping: str, microbatches: int):
    make, batch, prepare = METHODS[name]
    method, optimizer, mesh = make(), optax.sgd(1.0), data_mesh(jax.devices()[:devices])
    fresh = fresh_state(name)
    options = {"mapping": mapping, "prepare": prepare, "microbatches": microbatches}
    step = make_train_step(method, optimizer, seed=1, mesh=mesh, **options)
    state, terms = step(replicate(fresh, mesh), put_batch(batch, mesh) if mapping == "jit" else batch)
    return jax.device_get(terms), jax.tree.map(
        lambda old, new: old - np.asarray(new), fresh.params, state.params
    )


@pytest.fixture(scope="module", params=METHODS)
def whole(request):
    return request.param, one_step(request.param, 1, "jit", 1)


@pytest.mark.parametrize("mapping", ["jit", "pmap"])
def test_value_and_gradient_are_those_of_the_whole_batch(whole, mapping):
    name, expected = whole
    found = one_step(name, 8, mapping, 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


def test_it_takes_less_memory():
    method, optimizer, mesh = hasher(hidden=4096), optax.sgd(1.0), data_mesh(jax.devices()[:1])
    batch = jax.tree.map(lambda x: np.concatenate([x] * 8), heads_of())
    state = jax.eval_shape(lambda: create_state(method, optimizer, batch, 0))
    needed = {}
    for parts in (1, 8):
        step = make_train_step(method, optimizer, seed=1, mesh=mesh, microbatches=parts)
        needed[parts] = step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes
    assert needed[8] < needed[1] / 2


@pytest.mark.parametrize("mapping", ["jit", "pmap"])
def test_the_state_is_donated(mapping):
    batch, mesh = heads_of(), data_mesh()
    rule = {"learning_rate": 1e-3, "weight_decay": 0.0, "warmup_steps": 1, "steps": 9, "clip_norm": 1.0}
    method, optimizer = hasher(), make_optimizer("adamw", **rule)
    create = jax.jit(lambda: create_state(method, optimizer, batch, 0), compiler_options=QUICK)
    state = replicate(create(), mesh)
    step = make_train_step(method, optimizer, seed=0, mesh=mesh, mapping=mapping)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # 'donated buffers were not usable'
        for _ in range(2):
            before, (state, _) = state, step(state, put_batch(batch, mesh) if mapping == "jit" else batch)
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
