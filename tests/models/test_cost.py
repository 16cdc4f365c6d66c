"""Multiply-adds: against numbers that are known, and what is not counted."""

import functools

import jax
import jax.numpy as jnp
import pytest

from kdhash.models.backbones import make_backbone
from kdhash.models.cost import multiply_adds


def of_network(arch, size, **sizes):
    net = make_backbone(arch, **sizes)
    picture = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), picture)
    return lambda key: multiply_adds(lambda v, x: net.apply(v, x)[key], variables, picture)


# He et al. 2016 and the usual counts of the field, in millions: CIFAR ResNets; torchvision's tables.
@pytest.mark.parametrize(
    ("arch", "size", "sizes", "millions"),
    [
        ("resnet_cifar", 32, {"depth": 20, "classes": 10}, 40.55),
        ("resnet_cifar", 32, {"depth": 56, "classes": 10}, 125.49),
        ("mobilenet_v2", 224, {"classes": 1000}, 300.8),
        ("mobilenet_v1", 224, {"classes": 1000}, 568.7),
    ],
)
def test_counts_are_the_published_ones(arch, size, sizes, millions):
    assert of_network(arch, size, **sizes)("logits") / 1e6 == pytest.approx(millions, rel=0.002)


def test_what_the_outputs_do_not_need_is_not_counted():
    count = of_network("resnet_cifar", 32, depth=8, classes=10)
    assert count("logits") - count("features") == 64 * 10


def test_precision_and_rematerialisation_change_no_count():
    # grouped and depthwise convolutions, as products of shifted pictures too
    count = of_network("mobilenet_v2", 64, classes=10)("features")
    assert of_network("mobilenet_v2", 64, classes=10, dtype=jnp.bfloat16, remat=True)("features") == count
    grouped = ((1, 8, 8, 16), (3, 3, 4, 32))
    picture, kernel = (jnp.ones(shape, jnp.bfloat16) for shape in grouped)
    layout = {"feature_group_count": 4, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    convolve = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", **layout
    )
    assert multiply_adds(convolve, picture, kernel) == 8 * 8 * 32 * 9 * 4


def test_products_are_counted_in_jit_scans_and_branches():
    one = jnp.ones((1, 5))
    square = jnp.ones((5, 5))

    def body(x, _):
        return x @ square, None

    assert multiply_adds(jax.jit(lambda x: x @ square), one) == 25
    assert multiply_adds(lambda x: jax.lax.scan(body, x, None, length=3)[0], one) == 75
    assert multiply_adds(lambda x: jax.lax.cond(x[0, 0] > 0, lambda v: v @ square, lambda v: v, x), one) == 25
    assert multiply_adds(lambda x: x + 1, one) == 0
    both = jax.jit(lambda x: (x @ square, x @ jnp.ones((5, 7))))
    assert multiply_adds(lambda x: both(x)[0], one) == 25
