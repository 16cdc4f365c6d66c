"""Supervised losses by name: one call for all, each learnable on a separable problem."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdhash import losses
from kdhash.losses import SUPERVISED

CLASSES, BITS, ITEMS = 4, 8, 32
RNG = np.random.default_rng(0)
LABELS = np.eye(CLASSES)[np.arange(ITEMS) % CLASSES]
# Each class lies around its own direction of a space of 16, all of them far from the origin: random codes tell little.
INPUTS = (2 * LABELS @ np.eye(CLASSES, 16) + 1 + 0.2 * RNG.normal(size=(ITEMS, 16))).astype(np.float32)
START = (0.3 * RNG.normal(size=(16, BITS))).astype(np.float32)
CENTERS = np.asarray(losses.hadamard_centers(CLASSES, BITS))


def gap(network):
    """By how many bits codes agree more within classes than across them, of -8 to 8."""
    codes = np.sign(INPUTS @ network)
    products, same = codes @ codes.T, LABELS @ LABELS.T > 0
    return (products[same].mean() - products[~same].mean()) / 2


@pytest.mark.parametrize("name", SUPERVISED)
def test_a_hundred_steps_of_gradient_descent(name):
    loss = SUPERVISED[name]
    learned = loss.centers == "learned"
    params = {"network": jnp.asarray(START), "centers": 0.1 * CENTERS if learned else CENTERS}

    def objective(params):
        return loss(INPUTS @ params["network"], LABELS, params["centers"])

    def step(params, _):
        value, gradient = jax.value_and_grad(objective)(params)
        # HashNet's slope of 0.1 makes its gradients small.
        rate = {"network": 1.0 if name == "hashnet" else 0.05, "centers": 0.1 if learned else 0.0}
        return jax.tree.map(lambda p, r, g: p - r * g, params, rate, gradient), value

    params, values = jax.jit(lambda p: jax.lax.scan(step, p, length=100))(params)
    assert values[-1] < 0.75 * values[0]
    assert np.mean(values[-10:]) < np.mean(values[:10])
    # Items of one class have codes nearer to each other than to those of other classes.
    assert gap(params["network"]) > gap(START)


@pytest.mark.parametrize("name", SUPERVISED)
def test_called_alike(name):
    loss = SUPERVISED[name]
    u = INPUTS @ START
    centers = None if loss.centers == "none" else CENTERS
    plain = loss(u, LABELS, CENTERS)
    default = inspect.signature(loss.loss).parameters["quantization_weight"].default
    assert loss(u, LABELS, centers, quantization_weight=default) == plain
    assert loss(u, LABELS, centers, quantization_weight=default + 1) > plain
    several = LABELS + np.roll(LABELS, 1, axis=1)
    assert np.isfinite(loss(u, several, CENTERS))


@pytest.mark.parametrize("name", [name for name, loss in SUPERVISED.items() if loss.centers != "none"])
def test_centers_that_are_missing_or_lie_the_other_way(name):
    with pytest.raises(ValueError, match=r"centers is none; .* needs .* \(4, 8\)"):
        SUPERVISED[name](INPUTS @ START, LABELS)
    with pytest.raises(ValueError, match=r"an array \(8, 4\)"):
        SUPERVISED[name](INPUTS @ START, LABELS, CENTERS.T)


def test_names():
    assert set(SUPERVISED) == {
        "dpsh",
        "dhn",
        "dsh",
        "hashnet",
        "greedyhash",
        "csq",
        "dpn",
        "orthohash",
        "bihalf",
    }
