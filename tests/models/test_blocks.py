"""Shared blocks against plain references."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from kdhash.models.blocks import DepthwiseConv

X = np.random.default_rng(0).normal(size=(2, 13, 10, 6)).astype(np.float32)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2), (1, 1)])
@pytest.mark.parametrize("padding", ["SAME", None])
def test_depthwise_is_a_grouped_convolution(kernel, stride, padding):
    padding = kernel // 2 if padding is None else padding
    ours = DepthwiseConv(kernel, stride, padding, np.float32)
    variables = ours.init(jax.random.key(0), X)
    theirs = nn.Conv(6, (kernel, kernel), stride, padding=padding, feature_group_count=6, use_bias=False)
    np.testing.assert_allclose(ours.apply(variables, X), theirs.apply(variables, X), atol=1e-5)
