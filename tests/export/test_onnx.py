"""JAX functions as ONNX graphs: networks of all kinds, single primitives, and what has no rule."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest

from kdhash.export.network import picture_logits
from kdhash.export.onnx import write_onnx
from kdhash.export.onnx_graph import onnx_model
from kdhash.export.onnx_rules import NotExpressible
from kdhash.models.backbones import make_backbone
from kdhash.teachers.preprocessing import Preprocessing
from tests.export.small_runs import drawn

# Small members of each family that a frozen network may be of.
NETWORKS = {
    "resnet_cifar": {"depth": 8, "width": 8},
    "mobilenet_v1": {"multiplier": 0.1},
    "densenet": {"blocks": (1, 2), "growth": 4, "stem_width": 8},
    "convnext": {"depths": (1, 1), "widths": (8, 16)},
    "vit": {"patch": 8, "width": 16, "depth": 1, "heads": 2, "hidden": 24, "image_size": 24},
    "swin": {"depths": (2, 2), "heads": (1, 2), "width": 8, "window": 3},
}


@pytest.mark.parametrize("arch", NETWORKS)
def test_networks(tmp_path, arch):
    """With pictures of 16 pixels that the network enlarges: the same bits, less what is at the edge."""
    size = 24
    net = make_backbone(arch, **NETWORKS[arch])
    variables = drawn(net, np.zeros((1, size, size, 3), np.float32), seed=1)
    width = jax.eval_shape(net.apply, variables, jnp.zeros((1, size, size, 3)))["features"].shape[1]
    draw = np.random.default_rng(0)
    head = {
        "bits": {"kernel": draw.normal(size=(width, 16)).astype(np.float32), "bias": np.zeros(16, np.float32)}
    }
    part = {
        "backbone": {"arch": arch, "sizes": NETWORKS[arch], "dtype": "float32"},
        "preprocessing": Preprocessing(size=size, interpolation="bicubic")._asdict(),
        "standardize": "none",
    }
    own = {"image": {"backbone": variables, "head": head}}
    function = partial(picture_logits, {"image": part}, own)
    write_onnx(tmp_path / "image.onnx", "image", function, (16, 16, 3), np.uint8)
    pictures = draw.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    found = onnxruntime.InferenceSession(str(tmp_path / "image.onnx")).run(None, {"pictures": pictures})[0]
    expected = np.asarray(jax.jit(function)(pictures))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: jax.nn.softmax(x),
        lambda x: jnp.where(x > 0, jnp.sqrt(jnp.abs(x)), jnp.exp(x) ** 3),
        lambda x: jnp.pad(x, ((0, 0), (1, 2)), constant_values=2.0)[:, ::2],
        lambda x: jnp.concatenate([x, jnp.broadcast_to(jnp.arange(3.0), (x.shape[0], 3))], axis=1),
        lambda x: jnp.take(x, jnp.array([5, 0, 2]), axis=1),
        lambda x: jnp.einsum("bi,bj->bij", x, x).min(axis=2),
        lambda x: jnp.floor(x * 1000).astype(jnp.int32) >> 3,
        lambda x: jnp.round(x * 2) + jnp.clip(x, -0.5, 0.5) + jax.lax.erf(x) + jnp.sign(x),
        lambda x: jax.lax.reduce_window(x[:, :, None], 0.0, jax.lax.add, (1, 3, 1), (1, 2, 1), "VALID"),
        lambda x: jax.lax.reduce_window(x[:, :, None], -jnp.inf, jax.lax.max, (1, 3, 1), (1, 2, 1), "SAME"),
        lambda x: (jnp.moveaxis(x.reshape(-1, 2, 3), 1, 2) @ x.reshape(-1, 2, 3)).reshape(x.shape[0], -1),
    ],
)
def test_primitives(function, batch):
    x = np.random.default_rng(0).normal(size=(batch, 6)).astype(np.float32)
    model = onnx_model(function, (6,), np.float32, inputs="x", outputs="y").SerializeToString()
    (found,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    expected = np.asarray(function(jnp.asarray(x)))
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: jnp.sort(x), "no ONNX rule for JAX's 'sort'"),
        (lambda x: x[::2], "slices along the batch"),
        (lambda x: jnp.round(x) + jax.lax.round(x), "rounds halves to even numbers only"),
        (lambda x: jax.lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1))), "padding inside"),
        (lambda x: x[jnp.arange(3), jnp.arange(3)], "anything but slices along one axis"),
    ],
)
def test_what_has_no_rule_is_named(function, reason):
    with pytest.raises(NotExpressible, match=reason):
        onnx_model(function, (6,), np.float32, inputs="x", outputs="y")
