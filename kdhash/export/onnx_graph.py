"""A jitted function as an ONNX graph: each of JAX's primitives that networks here are made of, by one or a few ONNX operators.

Written for this purpose because jax2onnx, as of 0.17, cannot be installed beside the Orbax that training needs. What has no
entry in `onnx_rules.RULES` raises NotExpressible.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jaxtyping import Array
from onnx import helper, numpy_helper

from kdhash.export.onnx_rules import BATCH, RULES, NotExpressible, Value, is_open, tensor_type, whole

OPSET, IR_VERSION = 18, 9


def onnx_model(
    function: Callable[[Array], Array], width: tuple[int, ...], dtype: Any, *, inputs: str, outputs: str
) -> onnx.ModelProto:
    """The graph of `function`, of one array [batch, *width], for any batch. `inputs` and `outputs` name both ends.

    Raises NotExpressible for a primitive without a rule.
    """
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((BATCH, *width), dtype))
    graph = Graph(inputs)
    (result,) = graph.run(closed.jaxpr, closed.consts, [inputs])
    graph.nodes.append(helper.make_node("Identity", [graph.name(result)], [outputs]))
    ends = [
        helper.make_tensor_value_info(
            name, tensor_type(aval.dtype), ["batch" if is_open(dim) else dim for dim in aval.shape]
        )
        for name, aval in ((inputs, closed.in_avals[0]), (outputs, closed.out_avals[0]))
    ]
    nodes, constants = graph.needed(outputs)
    model = helper.make_model(
        helper.make_graph(nodes, "kdhash", ends[:1], ends[1:], constants),
        producer_name="kdhash",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model)
    return model


class Graph:
    """Nodes and constants in the order of their making."""

    def __init__(self, inputs: str):
        self.inputs = inputs
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._batch: str | None = None

    def run(self, jaxpr: Any, consts: Sequence[Any], values: Sequence[Value]) -> list[Value]:
        """Adds what `jaxpr` computes of `values`; its outputs."""
        known: dict[Any, Value] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
        known |= dict(zip(jaxpr.invars, values, strict=True))

        def read(atom: Any) -> Value:
            return np.asarray(atom.val, atom.aval.dtype) if hasattr(atom, "val") else known[atom]

        for equation in jaxpr.eqns:
            found = self._apply(equation, [read(atom) for atom in equation.invars])
            known |= dict(zip(equation.outvars, found, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, equation: Any, values: list[Value]) -> list[Value]:
        name, params = equation.primitive.name, equation.params
        inner = params.get("jaxpr", params.get("call_jaxpr"))
        if inner is not None:  # a function inside: jit, relu and its like
            return self.run(inner.jaxpr, inner.consts, values)
        if _foldable(equation, values):
            return [np.asarray(equation.primitive.bind(*values, **params))]
        if name not in RULES:
            raise NotExpressible(f"there is no ONNX rule for JAX's {name!r}")
        return [RULES[name](self, equation, *values)]

    def node(self, operator: str, *values: Value, **attributes: Any) -> str:
        """Adds a node with one output, whose name it returns."""
        output = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(map(self.name, values)), [output], **attributes))
        return output

    def name(self, value: Value) -> str:
        """A constant gets one when it is first used by a node."""
        if isinstance(value, str):
            return value
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def needed(self, output: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """The nodes and constants that `output` depends on: rules may have gone past some."""
        names, nodes = {output}, []
        for node in reversed(self.nodes):
            if names & set(node.output):
                names |= set(node.input)
                nodes.append(node)
        return nodes[::-1], [constant for constant in self.constants if constant.name in names]

    def scalar(self, name: str) -> bool:
        """Whether that is the name of a constant of rank 0."""
        return any(constant.name == name and not constant.dims for constant in self.constants)

    def transposed(self, value: Value, order: Sequence[int]) -> Value:
        if list(order) == list(range(len(order))):
            return value
        return (
            value.transpose(order)
            if isinstance(value, np.ndarray)
            else self.node("Transpose", value, perm=list(order))
        )

    def reshaped(self, value: Value, shape: Sequence[int]) -> Value:
        if isinstance(value, np.ndarray):
            return value.reshape(shape)
        return self.node("Reshape", value, whole([-1 if is_open(dim) else dim for dim in shape]))

    def batch(self) -> str:
        """The size of the batch, [1]."""
        if self._batch is None:
            self._batch = self.node("Shape", self.inputs, start=0, end=1)
        return self._batch


def _foldable(equation: Any, values: Sequence[Value]) -> bool:
    """Whole numbers that do not depend on the input or the batch, such as the places of `jnp.take`: rules ask for their values.
    Everything else that is constant the runtime folds itself."""
    (result,) = (out.aval for out in equation.outvars)
    return (
        (np.dtype(result.dtype).kind in "ib" or equation.primitive.name == "iota")
        and not any(isinstance(value, str) for value in values)
        and not any(map(is_open, result.shape))
    )
