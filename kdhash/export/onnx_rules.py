"""What JAX's primitives are in ONNX: a rule for each that networks here are made of.

A rule is called with the graph, the equation of the jaxpr, and its operands: names of tensors, or constants as arrays.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import onnx
from onnx import helper

if TYPE_CHECKING:
    from kdhash.export.onnx_graph import Graph

# The batch that functions are traced with. A dimension that it divides is the batch, or a multiple of it, and stays open.
BATCH = 7919
Value = str | np.ndarray  # the name of what a node gives, or a constant


class NotExpressible(ValueError):
    """No ONNX file can be written of this network; the message says why."""


Rule = Callable[..., Value]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        return [RULES.setdefault(name, function) for name in names][0]

    return add


def _direct(operator: str, graph: "Graph", equation: Any, *values: Value) -> Value:
    return graph.node(operator, *values)


DIRECT = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "pow": "Pow",
    "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual",
    "neg": "Neg", "abs": "Abs", "sign": "Sign", "floor": "Floor", "exp": "Exp", "log": "Log", "sqrt": "Sqrt",
    "tanh": "Tanh", "logistic": "Sigmoid", "erf": "Erf", "stop_gradient": "Identity", "copy": "Identity",
}  # fmt: skip
for _name, _operator in DIRECT.items():
    RULES[_name] = partial(_direct, _operator)


@rule("min")
def _min(graph, equation, x, y):
    """min(max(x, low), high), such as relu6, is Clip, which the runtime puts into a convolution before it."""
    last = graph.nodes[-1] if graph.nodes else onnx.NodeProto()
    bounded = last.op_type == "Max" and last.output[0] == x and graph.scalar(last.input[1])
    if bounded and isinstance(y, np.ndarray) and y.ndim == 0:
        return graph.node("Clip", last.input[0], last.input[1], y)
    return graph.node("Min", x, y)


@rule("rsqrt")
def _rsqrt(graph, equation, x):
    return graph.node("Reciprocal", graph.node("Sqrt", x))


@rule("square")
def _square(graph, equation, x):
    return graph.node("Mul", x, x)


@rule("integer_pow")
def _integer_pow(graph, equation, x):
    return graph.node("Pow", x, np.asarray(equation.params["y"], equation.invars[0].aval.dtype))


@rule("erfc")
def _erfc(graph, equation, x):
    return graph.node("Sub", np.float32(1), graph.node("Erf", x))


@rule("round")
def _round(graph, equation, x):
    if equation.params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        raise NotExpressible("ONNX rounds halves to even numbers only")
    return graph.node("Round", x)


@rule("convert_element_type")
def _cast(graph, equation, x):
    return graph.node("Cast", x, to=tensor_type(equation.params["new_dtype"]))


@rule("select_n")
def _select(graph, equation, which, *cases):
    if len(cases) != 2:
        raise NotExpressible("select_n of more than two cases")
    return graph.node("Where", which, cases[1], cases[0])


@rule("shift_right_arithmetic")
def _shift(graph, equation, x, places):
    if isinstance(places, str):
        raise NotExpressible("shifts by numbers that are computed")
    # ONNX shifts no signed numbers, and divides whole ones slowly and towards zero; float64 holds every int32
    parts = graph.node(
        "Mul", graph.node("Cast", x, to=tensor_type("float64")), np.float64(0.5 ** int(places.max()))
    )
    return graph.node("Cast", graph.node("Floor", parts), to=tensor_type(equation.outvars[0].aval.dtype))


@rule("reshape", "squeeze", "expand_dims")
def _reshape(graph, equation, x):
    return graph.reshaped(x, equation.outvars[0].aval.shape)


@rule("transpose")
def _transpose(graph, equation, x):
    return graph.transposed(x, equation.params["permutation"])


@rule("broadcast_in_dim")
def _broadcast(graph, equation, x):
    shape, places = equation.outvars[0].aval.shape, equation.params["broadcast_dimensions"]
    before = np.ones(len(shape), int)
    before[list(places)] = equation.invars[0].aval.shape
    x = graph.reshaped(x, before.tolist())
    if list(before) == list(shape):
        return x
    if any(is_open(dim) and not is_open(old) for dim, old in zip(shape, before, strict=True)):
        batch = graph.batch()
        parts = [
            graph.node("Mul", batch, whole([dim // BATCH])) if is_open(dim) else whole([dim]) for dim in shape
        ]
        return graph.node("Expand", x, graph.node("Concat", *parts, axis=0))
    return graph.node("Expand", x, whole([1 if is_open(dim) else dim for dim in shape]))


@rule("slice")
def _slice(graph, equation, x):
    starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
    steps = equation.params["strides"] or (1,) * len(starts)
    axes = [
        axis
        for axis, size in enumerate(equation.invars[0].aval.shape)
        if (starts[axis], limits[axis], steps[axis]) != (0, size, 1)
    ]
    if any(is_open(equation.invars[0].aval.shape[axis]) for axis in axes):
        raise NotExpressible("slices along the batch")
    given = ([values[axis] for axis in axes] for values in (starts, limits))
    return (
        graph.node("Slice", x, *map(whole, given), whole(axes), whole([steps[axis] for axis in axes]))
        if axes
        else x
    )


@rule("pad")
def _pad(graph, equation, x, value):
    low, high, inner = zip(*equation.params["padding_config"], strict=True)
    if any(inner) or min(low + high) < 0:
        raise NotExpressible("padding inside, or less than none")
    return graph.node("Pad", x, whole(low + high), value)


@rule("concatenate")
def _concatenate(graph, equation, *parts):
    return graph.node("Concat", *parts, axis=equation.params["dimension"])


def _reduce(operator: str, graph: "Graph", equation: Any, x: Value) -> Value:
    return graph.node(operator, x, whole(equation.params["axes"]), keepdims=0)


for _name, _operator in {
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
}.items():
    RULES[_name] = partial(_reduce, _operator)


@rule("gather")
def _gather(graph, equation, x, places):
    """Only what jnp.take does: whole slices along one axis."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape = equation.invars[0].aval.shape
    axis = numbers.start_index_map[0]
    given = equation.invars[1].aval.shape[:-1]
    rank = len(equation.outvars[0].aval.shape)
    kept = [place for place in range(rank) if not axis <= place < axis + len(given)]
    if (
        numbers.start_index_map != (axis,)
        or numbers.collapsed_slice_dims != (axis,)
        or numbers.operand_batching_dims
        or list(sizes) != [*shape[:axis], 1, *shape[axis + 1 :]]
        or list(numbers.offset_dims) != kept
    ):
        raise NotExpressible("gathering of anything but slices along one axis")
    return graph.node("Gather", x, graph.reshaped(places, given), axis=axis)


@rule("dot_general")
def _dot(graph, equation, x, y):
    (along_x, along_y), (shared_x, shared_y) = equation.params["dimension_numbers"]
    ranks = [len(atom.aval.shape) for atom in equation.invars]
    if not shared_x and along_x == (ranks[0] - 1,) and along_y == (0,) and ranks[1] == 2:
        return graph.node("MatMul", x, y)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    names = [[""] * rank for rank in ranks]
    for dims_x, dims_y in ((shared_x, shared_y), (along_x, along_y)):
        for dim_x, dim_y in zip(dims_x, dims_y, strict=True):
            names[0][dim_x] = names[1][dim_y] = next(letters)
    result = [names[0][dim] for dim in shared_x]
    for which, taken in ((0, (*shared_x, *along_x)), (1, (*shared_y, *along_y))):
        for dim in range(ranks[which]):
            if dim not in taken:
                names[which][dim] = next(letters)
                result.append(names[which][dim])
    terms = ["".join(name) for name in (*names, result)]
    return graph.node("Einsum", x, y, equation=f"{terms[0]},{terms[1]}->{terms[2]}")


@rule("conv_general_dilated")
def _conv(graph, equation, x, kernel):
    params = equation.params
    numbers = params["dimension_numbers"]
    if (
        params["batch_group_count"] != 1
        or set(params["lhs_dilation"]) != {1}
        or np.min(params["padding"]) < 0
    ):
        raise NotExpressible("convolutions with dilated inputs, grouped batches or negative padding")
    low, high = zip(*params["padding"], strict=True)
    found = graph.node(
        "Conv",
        graph.transposed(x, numbers.lhs_spec),
        graph.transposed(kernel, numbers.rhs_spec),
        strides=list(params["window_strides"]),
        dilations=list(params["rhs_dilation"]),
        pads=list(low + high),
        group=params["feature_group_count"],
    )
    return graph.transposed(found, np.argsort(numbers.out_spec).tolist())


def _pool(graph: "Graph", equation: Any, x: Value, operator: str, **attributes: Any) -> Value:
    """Over all axes but the first and the last."""
    params = equation.params
    window, steps, padding = (params[name] for name in ("window_dimensions", "window_strides", "padding"))
    rank = len(window)
    ends = (0, rank - 1)
    if any(window[end] != 1 or any(padding[end]) for end in ends) or set(params["base_dilation"]) != {1}:
        raise NotExpressible("pooling over the batch or the channels, or of dilated inputs")
    low, high = zip(*padding[1:-1], strict=True)
    found = graph.node(
        operator,
        graph.transposed(x, [0, rank - 1, *range(1, rank - 1)]),
        kernel_shape=list(window[1:-1]),
        strides=list(steps[1:-1]),
        pads=list(low + high),
        **attributes,
    )
    return graph.transposed(found, [0, *range(2, rank), 1])


@rule("reduce_window_max")
def _max_pool(graph, equation, x):
    return _pool(graph, equation, x, "MaxPool", dilations=list(equation.params["window_dilation"][1:-1]))


@rule("reduce_window_sum")
def _sum_pool(graph, equation, x):
    if set(equation.params["window_dilation"]) != {1}:
        raise NotExpressible("sums over dilated windows")
    count = np.float32(math.prod(equation.params["window_dimensions"]))
    return graph.node("Mul", _pool(graph, equation, x, "AveragePool", count_include_pad=1), count)


def is_open(dim: int) -> bool:
    return dim > 0 and dim % BATCH == 0


def whole(numbers: Sequence[int]) -> np.ndarray:
    return np.asarray(list(numbers), np.int64)


def tensor_type(dtype: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
