"""bfloat16 inside, float32 outside; blocks that are computed anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdhash.methods.classifier import classifier
from kdhash.methods.dmth import LossWeights, hash_student
from kdhash.methods.kdcmh import djsrh, two_towers
from kdhash.methods.unsupervised import BASES
from kdhash.models import mobilenet
from kdhash.models.backbones import make_backbone
from kdhash.models.blocks import DepthwiseConv
from kdhash.models.hasher import Hasher
from kdhash.models.two_towers import TwoTowers
from kdhash.training.loop import QUICK

OPTIONS = {"compiler_options": QUICK}
RNG = np.random.default_rng(0)
COUNT, SCALE = 64, ((0.5,) * 3, (0.25,) * 3)
SIZES = {"widths": (8, 16)}
BATCH = {
    "image": RNG.random((COUNT, 8, 8, 3), dtype=np.float32),
    "label": RNG.integers(0, 4, COUNT),
    "teacher_codes": np.tanh(RNG.normal(size=(COUNT, 16))).astype(np.float32),
    "view_i": RNG.random((COUNT, 8, 8, 3), dtype=np.float32),
    "view_j": RNG.random((COUNT, 8, 8, 3), dtype=np.float32),
}
PAIRS = {name: RNG.normal(size=(COUNT, 12)).astype(np.float32) for name in ("image", "text")}
PAIRS |= {f"{name}_seen": PAIRS[name] for name in ("image", "text")} | {"epoch": np.zeros(COUNT, np.int32)}


def student(dtype):
    weights = LossWeights(quantization=0.1, balance=0.1, code=1.0, relation=1.0)
    return hash_student(
        arch="convnet",
        sizes=SIZES,
        bits=16,
        classes=4,
        mean=SCALE[0],
        std=SCALE[1],
        weights=weights,
        dtype=dtype,
    )


def plain_classifier(dtype):
    return classifier(arch="convnet", sizes=SIZES, classes=4, mean=SCALE[0], std=SCALE[1], dtype=dtype)


def hasher(dtype):
    model = Hasher(16, 24, 0, "convnet", tuple(SIZES.items()), *SCALE, dtype=jnp.dtype(dtype))
    return BASES["cibhash"].make(model)


def towers(dtype):
    return two_towers(TwoTowers(16, image_hidden=64, text_hidden=64, dtype=jnp.dtype(dtype)), djsrh(beta=0.6))


METHODS = {"student": student, "classifier": plain_classifier, "hasher": hasher, "towers": towers}


def step(method, variables, batch):
    """(outputs, new statistics, terms), gradients."""
    keys = jax.random.split(jax.random.key(0), COUNT)

    def loss(params):
        outputs, stats = method.forward({**variables, "params": params}, batch, keys, train=True)
        value, terms = method.loss(outputs, batch)
        return value, (outputs, stats, terms)

    return jax.jit(jax.grad(loss, has_aux=True), **OPTIONS)(variables["params"])


def dtypes(*trees):
    return {str(leaf.dtype) for leaf in jax.tree.leaves(trees)}


@pytest.mark.parametrize("name", METHODS)
def test_half_inside_and_float32_outside(name):
    batch = PAIRS if name == "towers" else BATCH
    whole, half = (METHODS[name](dtype) for dtype in ("float32", "bfloat16"))
    variables = jax.jit(half.init, **OPTIONS)(jax.random.key(0), batch)
    (gradient, (outputs, stats, terms)), (expected, _) = (
        step(method, variables, batch) for method in (half, whole)
    )
    assert dtypes(variables, gradient, outputs, stats, terms) == {"float32"}

    a, b = (np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(g)]) for g in (gradient, expected))
    assert not np.array_equal(a, b)
    assert np.linalg.norm(a - b) < 0.2 * np.linalg.norm(b)

    # what is searched by is float32
    inputs = {"image": batch["image"]} if name == "towers" else batch["image"]
    programs = {jax.jit(method.encode).lower(variables, inputs).as_text() for method in (half, whole)}
    assert len(programs) == 1
    assert "bf16" not in programs.pop()


def test_a_depthwise_convolution_sums_in_float32():
    x = jnp.asarray(
        RNG.random((2, 9, 9, 4)), jnp.bfloat16
    )  # all positive: a sum of 49 that bfloat16 would not hold
    half, whole = (DepthwiseConv(7, 1, 3, dtype) for dtype in (jnp.bfloat16, jnp.float32))
    kernel = jnp.asarray(RNG.random((7, 7, 1, 4)), jnp.bfloat16).astype(jnp.float32)
    (y, expected) = (net.apply({"params": {"kernel": kernel}}, x) for net in (half, whole))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, expected.astype(jnp.bfloat16))


DEEP = {
    "resnet_cifar": {"depth": 14, "width": 4},
    "resnet": {"depths": (2, 1), "widths": (8, 8), "stem_width": 8, "stem": "cifar"},
    "mobilenet_v2": {"multiplier": 0.25},
    "vit": {"width": 16, "heads": 2, "depth": 3, "hidden": 64, "patch": 4, "image_size": 16},
}


def deep(arch, remat):
    """Variables' shapes, pictures, and loss(parameters, other variables, pictures) -> (loss, new statistics)."""
    net = make_backbone(arch, classes=3, remat=remat, **DEEP[arch])
    x = np.random.default_rng(0).normal(size=(16, 16, 16, 3)).astype(np.float32)

    def loss(params, rest, x):
        outputs, new = net.apply({**rest, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.square(outputs["logits"] - 1).mean(), new

    shapes = dict(jax.eval_shape(net.init, jax.random.key(0), x))
    return shapes.pop("params"), shapes, x, loss


@pytest.mark.parametrize("arch", DEEP)
def test_blocks_computed_anew_keep_less(arch, monkeypatch):
    monkeypatch.setattr(mobilenet, "V2_STAGES", mobilenet.V2_STAGES[:3])

    def kept(remat):
        *given, loss = deep(arch, remat)
        backward = jax.eval_shape(lambda *given: jax.vjp(loss, *given, has_aux=True)[1], *given)
        return given[:2], sum(leaf.size for leaf in jax.tree.leaves(backward))

    (names, all_of_it), (same_names, less) = kept(False), kept(True)
    assert names == same_names  # weights still load
    assert less < 0.6 * all_of_it


@pytest.mark.parametrize("arch", ["resnet_cifar", "vit"])
def test_blocks_computed_anew_give_the_same(arch):
    params, rest, x, _ = deep(arch, False)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: rng.normal(size=p.shape, scale=0.2).astype(np.float32), params)
    rest = jax.tree.map(lambda s: np.ones(s.shape, np.float32), rest)
    kept, anew = (
        jax.jit(jax.grad(deep(arch, remat)[-1], has_aux=True), **OPTIONS)(params, rest, x)
        for remat in (False, True)
    )
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(anew), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5)
