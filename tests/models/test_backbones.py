"""What every network promises: its outputs at any size of picture, half precision, gradients for all it has."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdhash.models.backbones import BACKBONES, make_backbone

TRANSFORMER = {"width": 16, "heads": 2, "depth": 2, "hidden": 24}
SMALL = {
    "resnet_cifar": {"depth": 8},
    "resnet": {"depths": (1, 1, 1, 1), "block": "bottleneck", "widths": (4, 6, 8, 10), "stem_width": 8},
    "vgg": {"depth": 11, "norm": True, "widths": (4, 6, 8, 10, 12), "hidden": 20},
    "densenet": {"blocks": (2, 2), "growth": 4, "stem_width": 8},
    "convnext": {"depths": (1, 1, 1, 1), "widths": (8, 12, 16, 20)},
    "swin": {"depths": (2, 2), "width": 8, "heads": (2, 4), "window": 4},
    "mobilenet_v1": {"multiplier": 0.25},
    "mobilenet_v2": {"multiplier": 0.25},
    "mobilenet_v3": {"layout": "small"},
    "efficientnet": {"wider": 0.25, "deeper": 0.3},
    "squeezenet": {"version": "1_1"},
    "vit": TRANSFORMER | {"patch": 8, "image_size": 32},
    "clip_text": TRANSFORMER | {"vocabulary": 50, "length": 9, "projection": 10, "end": 49},
    "convnet": {"widths": (4, 8)},
    "mlp": {"widths": (32,)},
}


def inputs_of(arch, batch=4, size=32):
    rng = np.random.default_rng(0)
    if arch == "clip_text":
        return rng.integers(0, 50, size=(batch, 7)).astype(np.int32)
    return rng.normal(size=(batch, size, size, 3)).astype(np.float32)


@functools.cache
def made(arch):
    """A network and variables of the size that its own initialisers give, without compiling those."""
    net = make_backbone(arch, classes=5, **SMALL[arch])
    shapes = jax.eval_shape(net.init, jax.random.key(0), inputs_of(arch))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        if path[-1].key in ("bias", "mean"):
            return np.zeros(leaf.shape, np.float32)
        if leaf.ndim < 2:  # scales and variances
            return np.ones(leaf.shape, np.float32)
        return rng.normal(size=leaf.shape, scale=np.prod(leaf.shape[:-1]) ** -0.5).astype(np.float32)

    return net, jax.tree_util.tree_map_with_path(fill, shapes)


def test_every_network_is_tried():
    assert set(SMALL) == set(BACKBONES)


@pytest.mark.parametrize("arch", SMALL)
def test_outputs_and_half_precision(arch):
    net, variables = made(arch)
    x = inputs_of(arch)
    outputs = jax.jit(net.apply)(variables, x)
    assert outputs["features"].ndim == 2
    assert outputs["logits"].shape == (4, 5)
    assert all(value.dtype == jnp.float32 for value in outputs.values())
    if arch not in ("convnet", "mlp", "clip_text"):
        assert outputs["spatial"].ndim == 4

    half = make_backbone(arch, classes=5, **SMALL[arch], dtype=jnp.bfloat16)
    halved = np.asarray(jax.jit(half.apply)(variables, x)["features"])
    whole = np.asarray(outputs["features"])
    assert halved.dtype == np.float32
    assert not np.array_equal(whole, halved)
    for a, b in zip(whole, halved, strict=True):
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.98


@pytest.mark.parametrize("arch", [arch for arch in SMALL if arch not in ("mlp", "clip_text")])
def test_another_size_of_picture(arch):
    net, variables = made(arch)
    shapes = jax.eval_shape(net.apply, variables, inputs_of(arch, size=75))
    assert shapes["features"].shape == jax.eval_shape(net.apply, variables, inputs_of(arch))["features"].shape


@pytest.mark.parametrize("arch", [arch for arch in SMALL if arch not in ("mobilenet_v2", "clip_text")])
def test_trains(arch):
    net, variables = made(arch)
    x, labels = inputs_of(arch), np.arange(4)

    @jax.jit
    def loss(params):
        outputs, stats = net.apply(variables | {"params": params}, x, train=True, mutable=["batch_stats"])
        return -jax.nn.log_softmax(outputs["logits"])[labels, labels].mean(), stats

    gradients, stats = jax.grad(loss, has_aux=True)(variables["params"])
    flat, _ = jax.tree_util.tree_flatten_with_path(gradients)
    assert all(np.isfinite(leaf).all() for _, leaf in flat)
    still = [jax.tree_util.keystr(path) for path, leaf in flat if not np.abs(leaf).max() > 0]
    assert not still
    if "batch_stats" in variables:
        moved = jax.tree.map(
            lambda a, b: float(np.abs(a - b).max()), variables["batch_stats"], stats["batch_stats"]
        )
        assert min(jax.tree.leaves(moved)) > 0
