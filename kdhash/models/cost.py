"""What a network costs, counted, not timed."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from kdhash.models.blocks import COUNTED_PRODUCTS


def multiply_adds(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiply-adds of one call of `function`: those of its convolutions and matrix products, as papers count them (additions,
    norms and activations are left out). What its outputs do not need is not counted.

    `arguments` are arrays or trees of them; shapes (jax.ShapeDtypeStruct) are enough, since nothing is computed. With pictures in
    a batch of one it is the count a picture. A loop of unknown length counts as one round, of a branch the dearest.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    return _count(closed.jaxpr)


def _count(jaxpr: Jaxpr, outputs: Sequence[bool] | None = None) -> int:
    """Of the outputs that are marked, or of all."""
    marks = outputs or [True] * len(jaxpr.outvars)
    needed = {id(out) for out, mark in zip(jaxpr.outvars, marks, strict=True) if mark}
    total = 0
    for equation in reversed(jaxpr.eqns):
        if not equation.effects and not any(id(out) in needed for out in equation.outvars):
            continue
        total += _of(equation, [id(out) in needed for out in equation.outvars])
        needed |= {id(value) for value in equation.invars if not isinstance(value, Literal)}
    return total


def _of(equation: Any, outputs: Sequence[bool]) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        channels = kernel[parameters["dimension_numbers"].rhs_spec[0]]  # that come out
        return math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // channels
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    if name == "mul" and COUNTED_PRODUCTS in str(equation.source_info.name_stack):
        return math.prod(equation.outvars[0].aval.shape)
    if name == "cond":
        return max(_count(branch.jaxpr) for branch in parameters["branches"])
    inner = [
        value.jaxpr if isinstance(value, ClosedJaxpr) else value
        for value in parameters.values()
        if isinstance(value, (Jaxpr, ClosedJaxpr))
    ]
    if name == "jit":  # its outputs are the equation's; not so those of a loop, which need one another
        return _count(inner[0], outputs)
    rounds = int(parameters["length"]) if name == "scan" else 1
    return rounds * sum(_count(one) for one in inner)
