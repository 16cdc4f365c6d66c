"""One pure step gives the numbers of one device under every mapping, losses over pairs and batch norm included."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdhash.experiment.kdcmh import draw_text
from kdhash.methods.cibhash import cibhash
from kdhash.methods.dmth import LossWeights, hash_student
from kdhash.methods.interface import Method
from kdhash.methods.kdcmh import djsrh, two_towers
from kdhash.models.hasher import Hasher
from kdhash.models.two_towers import TwoTowers
from kdhash.training.mapping import (
    AXIS,
    FEWEST_BYTES,
    data_mesh,
    make_encode,
    make_train_step,
    put_batch,
    replicate,
    step_options,
)
from kdhash.training.state import create_state, make_optimizer

BATCH = 32


def student(axis_name=None, arch="convnet", widths=(4, 8)) -> Method:
    """Batch norm, a loss over pairs (relation) and one over the batch's mean (balance)."""
    return hash_student(
        arch=arch,
        sizes={"widths": widths},
        bits=16,
        classes=3,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        weights=LossWeights(quantization=0.1, balance=1.0, code=1.0, relation=1.0, feature=1.0),
        teacher_width=6,
        axis_name=axis_name,
    )


def hasher(axis_name=None, arch="convnet", widths=(4, 8)) -> Method:
    """Batch norm over two views, a loss that contrasts all of the batch."""
    model = Hasher(
        bits=16, hidden=8, arch=arch, sizes=(("widths", widths),), mean=(0.5,) * 3, axis_name=axis_name
    )
    return cibhash(model)


def views_of():
    rng = np.random.default_rng(0)
    return {f"view_{view}": rng.random((BATCH, 8, 8, 3), dtype=np.float32) for view in "ij"}


def towers(axis_name=None) -> Method:
    """Hashers of two modalities, a loss over the similarities of the batch."""
    return two_towers(TwoTowers(bits=16, image_hidden=8), djsrh(beta=0.6))


def pairs_of():
    rng = np.random.default_rng(0)
    sizes = {"image": (6,), "text": (5,), "texts": (3, 5), "image_seen": (6,), "text_seen": (5,)}
    batch = {name: rng.random((BATCH, *size), dtype=np.float32) for name, size in sizes.items()}
    return batch | {"epoch": np.full(BATCH, 2, np.int32)}


def batch_of(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.random((BATCH, 8, 8, 3), dtype=np.float32),
        "label": rng.integers(0, 3, BATCH).astype(np.int32),
        "teacher_codes": np.tanh(rng.normal(size=(BATCH, 16))).astype(np.float32),
        "teacher_fused": rng.normal(size=(BATCH, 6)).astype(np.float32),
    }


def noise(keys, batch):
    """A preparation that draws from every example's key."""
    if "texts" in batch:
        return draw_text(keys, batch)
    drawn = 0.1 * jax.vmap(lambda key: jax.random.normal(key, (8, 8, 3)))(keys)
    pictures = ("image", "view_i", "view_j")
    return {name: value + drawn if name in pictures else value for name, value in batch.items()}


METHODS = {
    "student": (student, batch_of(), "cross_entropy quantization balance code relation feature loss"),
    "hasher": (hasher, views_of(), "contrast kl loss"),
    "towers": (towers, pairs_of(), "cross image text loss"),
}


def one_step(name: str, mapping: str, devices: int):
    """Loss terms and the gradient (by plain descent with rate 1) of one step, and the new batch statistics."""
    make, batch, _ = METHODS[name]
    method = make(AXIS if mapping == "pmap" else None)
    optimizer = optax.sgd(1.0)
    mesh = data_mesh(jax.devices()[:devices])
    state = replicate(create_state(method, optimizer, batch, 0), mesh)
    before = jax.device_get(state.params)
    step = make_train_step(method, optimizer, seed=1, mesh=mesh, mapping=mapping, prepare=noise)
    state, terms = step(state, put_batch(batch, mesh) if mapping == "jit" else batch)
    gradient = jax.tree.map(lambda old, new: old - np.asarray(new), before, state.params)
    return jax.device_get(terms), gradient, jax.device_get(state.batch_stats)


@pytest.fixture(scope="module", params=METHODS)
def reference(request):
    return request.param, one_step(request.param, "jit", 1)


@pytest.mark.parametrize("mapping", ["jit", "pmap"])
@pytest.mark.parametrize("devices", [2, 8])
def test_loss_gradient_and_statistics_equal_those_of_one_device(reference, mapping, devices):
    name, expected = reference
    terms, gradient, statistics = one_step(name, mapping, devices)
    assert set(terms) == set(METHODS[name][2].split())
    assert jax.tree.leaves(statistics) or name == "towers"
    for mine, theirs in zip((terms, gradient, statistics), expected, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), mine, theirs)


def test_unknown_mapping_is_an_error():
    with pytest.raises(ValueError, match=r"config\.mapping"):
        make_train_step(student(), optax.sgd(1.0), seed=0, mesh=data_mesh(), mapping="vmap")


def test_a_step_on_a_divided_cpu_holds_fewer_bytes_in_its_order_at_the_same_numbers():
    method, optimizer, mesh = student(widths=(16, 16)), optax.sgd(1.0), data_mesh(jax.devices()[:2])
    state = replicate(create_state(method, optimizer, batch_of(), 0), mesh)
    batch = put_batch(batch_of(), mesh)
    lowered = make_train_step(method, optimizer, seed=1, mesh=mesh).lower(state, batch)
    ours, others = (
        lowered.compile(),
        lowered.compile({"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_DEFAULT"}),
    )
    assert ours.memory_analysis().temp_size_in_bytes < others.memory_analysis().temp_size_in_bytes
    copy = jax.tree.map(lambda x: x.copy(), state)  # the state passed in is donated
    jax.tree.map(np.testing.assert_array_equal, ours(state, batch)[0], others(copy, batch)[0])


def test_an_order_is_asked_for_where_a_cpu_is_divided_and_xla_knows_it(monkeypatch):
    assert step_options(data_mesh()) == FEWEST_BYTES, "a newer XLA may name it otherwise: look for the name"
    assert step_options(data_mesh(jax.devices()[:1])) == {}
    monkeypatch.setattr("kdhash.training.mapping.FEWEST_BYTES", {"xla_cpu_no_such_option": "1"})
    assert step_options.__wrapped__(data_mesh()) == {}


def test_encode_gives_every_row_once_whatever_the_batch_size():
    method, mesh = student(), data_mesh()
    variables = method.init(jax.random.key(0), batch_of())
    pictures = batch_of()["image"]
    encode = make_encode(method, mesh, 24)
    rows = np.arange(BATCH)[::-1]
    expected = method.encode(variables, pictures[rows])
    np.testing.assert_allclose(encode(variables, lambda r: pictures[r], rows), expected, atol=1e-6)


def test_weight_decay_spares_norms_and_biases():
    optimizer = make_optimizer(
        "sgd", learning_rate=0.1, weight_decay=0.5, warmup_steps=0, steps=10, clip_norm=0.0
    )
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    assert np.all(np.asarray(updates["kernel"]) < 0)
    np.testing.assert_array_equal(updates["bias"], 0)


def test_schedule_warms_up_and_ends_at_zero():
    optimizer = make_optimizer(
        "sgd", learning_rate=1.0, weight_decay=0.0, warmup_steps=2, steps=6, clip_norm=0.0
    )
    state = optimizer.init({"w": jnp.zeros(1)})
    sizes = []
    for _ in range(7):
        updates, state = optimizer.update({"w": jnp.ones(1)}, state, {"w": jnp.zeros(1)})
        sizes.append(float(-updates["w"][0]))
    assert sizes[0] == 0
    assert np.argmax(sizes) in (2, 3)
    assert sizes[-1] == pytest.approx(0, abs=1e-6)
