"""What convolutional families share. Helpers that make layers are to be called inside a compact module."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# The scope of products that belong to a convolution, where `cost.multiply_adds` finds them.
COUNTED_PRODUCTS = "convolution_products"
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "relu6": nn.relu6,
    "swish": nn.swish,
    "hard_swish": nn.hard_swish,
    "sigmoid": nn.sigmoid,
    "hard_sigmoid": nn.hard_sigmoid,
    "none": lambda x: x,
}


def batch_norm(
    x: Array,
    *,
    train: bool,
    axis_name: str | None,
    dtype: Any,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    name: str | None = None,
) -> Array:
    """Batch norm with PyTorch's constants; statistics over the global batch (see `axis_name`), float32 for every `dtype`."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=momentum,
        epsilon=epsilon,
        axis_name=axis_name,
        dtype=dtype,
        name=name,
    )(x)


def run_block(block: nn.Module, x: Array, *, remat: bool, **options: Any) -> Array:
    """block(x, **options). With `remat` the backward pass computes anew what is inside the block, of which only x is kept:
    less memory, one more forward pass. Variables keep their names.
    """
    if not remat:
        return block(x, **options)
    return nn.remat(lambda block, x: block(x, **options))(block, x)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, activation: variables 'conv' and 'norm'.

    `padding` is given as a number, as PyTorch pads (both sides alike; None: kernel // 2), or as 'SAME' for TensorFlow's rule.
    """

    width: int
    kernel: int
    stride: int = 1
    groups: int = 1
    padding: int | str | None = None
    activation: str = "relu"
    epsilon: float = 1e-5
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"], *, train: bool) -> Float[Array, "batch h2 w2 width"]:
        padding = self.kernel // 2 if self.padding is None else self.padding
        if self.groups == self.width == x.shape[-1] and self.groups > 1:
            x = DepthwiseConv(self.kernel, self.stride, padding, self.dtype, name="conv")(x)
        else:
            x = nn.Conv(
                self.width,
                (self.kernel, self.kernel),
                self.stride,
                padding=padding,
                feature_group_count=self.groups,
                use_bias=False,
                dtype=self.dtype,
                name="conv",
            )(x)
        x = batch_norm(
            x, train=train, axis_name=self.axis_name, dtype=self.dtype, epsilon=self.epsilon, name="norm"
        )
        return ACTIVATIONS[self.activation](x)


class DepthwiseConv(nn.Module):
    """One filter a channel, as a sum of shifted products: XLA's grouped convolution is several times slower on CPUs.

    `padding`: see ConvNorm. The variables 'kernel' and 'bias' are those of a grouped nn.Conv, [k, k, 1, channels] and
    [channels]. What comes in and goes out is of `dtype`; sums are float32, as a convolution's are.
    """

    kernel: int
    stride: int
    padding: int | str
    dtype: Any
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 c"]:
        k, stride = self.kernel, self.stride
        weights = self.param("kernel", nn.initializers.lecun_normal(), (k, k, 1, x.shape[-1]))
        if self.padding == "SAME":
            pads = jax.lax.padtype_to_pads(x.shape[1:3], (k, k), (stride, stride), "SAME")
        else:
            pads = [(int(self.padding), int(self.padding))] * 2
        x = jnp.pad(x.astype(self.dtype), ((0, 0), *pads, (0, 0)))
        height, width = ((n - k) // stride + 1 for n in x.shape[1:3])
        weights = weights.astype(self.dtype).astype(jnp.float32)
        x = x.astype(jnp.float32)
        with jax.named_scope(COUNTED_PRODUCTS):
            total = sum(
                x[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
                * weights[i, j, 0]
                for i in range(k)
                for j in range(k)
            )
        if self.use_bias:
            total += self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return total.astype(self.dtype)


class InvertedResidual(nn.Module):
    """Pointwise convolution to `inner` channels ('expand', left out where there are as many already), depthwise one,
    squeeze and excitation where `squeeze` gives its width, linear pointwise one to `width` ('project'); added to what
    came in where the shape allows it.
    """

    inner: int
    width: int
    kernel: int
    stride: int
    squeeze: int = 0
    squeeze_activation: str = "swish"
    gate: str = "sigmoid"
    activation: str = "relu6"
    padding: str | None = None
    epsilon: float = 1e-5
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"], *, train: bool) -> Float[Array, "batch h2 w2 width"]:
        def unit(name: str, width: int, activation: str, kernel: int = 1, stride: int = 1, groups: int = 1):
            return ConvNorm(
                width,
                kernel,
                stride,
                groups,
                padding=self.padding,
                activation=activation,
                epsilon=self.epsilon,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=name,
            )

        y = x
        if self.inner != x.shape[-1]:
            y = unit("expand", self.inner, self.activation)(y, train=train)
        y = unit("depthwise", self.inner, self.activation, self.kernel, self.stride, self.inner)(
            y, train=train
        )
        if self.squeeze:
            pooled = y.astype(jnp.float32).mean(axis=(1, 2))
            pooled = nn.Dense(self.squeeze, dtype=self.dtype, name="squeeze")(pooled)
            pooled = ACTIVATIONS[self.squeeze_activation](pooled)
            excited = nn.Dense(self.inner, dtype=self.dtype, name="excite")(pooled)
            y = y * ACTIVATIONS[self.gate](excited)[:, None, None]
        y = unit("project", self.width, "none")(y, train=train)
        return x + y if x.shape == y.shape else y


def make_divisible(channels: float, divisor: int, smallest: int) -> int:
    """`channels` rounded to a multiple of `divisor`, not below `smallest`, and not more than 10 % down."""
    rounded = max(smallest, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def pooled_outputs(x: Float[Array, "batch h w width"], classes: int | None) -> dict[str, Array]:
    """{'features': mean over places, 'spatial': the map, 'logits': 'classifier' of the features where `classes` is given}."""
    spatial = x.astype(jnp.float32)
    outputs = {"features": spatial.mean(axis=(1, 2)), "spatial": spatial}
    if classes is not None:
        outputs["logits"] = nn.Dense(classes, name="classifier")(outputs["features"])
    return outputs
