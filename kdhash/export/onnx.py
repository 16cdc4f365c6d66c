"""image.onnx, text.onnx: the same for ONNX Runtime, which needs neither JAX nor kdhash. The extra 'onnx'."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdhash.export.model import Encoders, Facts, artefact

FILES = {"image": "image.onnx", "text": "text.onnx"}
INPUTS = {"image": "pictures", "text": "texts"}
OUTPUT = "codes"
MISSING = "ONNX files need the extra 'onnx': pip install 'kdhash[onnx]'"


def write_onnx(
    path: Path, part: str, codes: Callable[[Any], Any], width: tuple[int, ...], dtype: Any
) -> None:
    """Writes `codes`, a function of [batch, *width], for any batch; `part` is 'image' or 'text'.

    Raises ImportError without the extra, NotExpressible (a ValueError) where ONNX lacks what the network needs.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401 - what is written is checked
    except ImportError:
        raise ImportError(MISSING) from None
    import flax.linen as nn

    from kdhash.export.onnx_graph import onnx_model

    with nn.intercept_methods(_for_runtime):
        model = onnx_model(codes, width, dtype, inputs=INPUTS[part], outputs=OUTPUT)
    onnx.save_model(model, path)


def _for_runtime(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    """Two layers in the form that is fast in ONNX Runtime: depthwise convolutions as grouped ones (for XLA on CPUs they are
    sums of products), and batch norm as one factor and one summand, which the runtime puts into the convolution before it."""
    import flax.linen as nn
    import jax

    from kdhash.models.blocks import DepthwiseConv

    layer = context.module
    if context.method_name == "__call__" and isinstance(layer, nn.BatchNorm):
        statistics = {name: np.asarray(layer.get_variable("batch_stats", name)) for name in ("mean", "var")}
        factor = 1 / np.sqrt(statistics["var"] + np.float32(layer.epsilon))
        if layer.use_scale:
            factor = factor * np.asarray(layer.get_variable("params", "scale"))
        summand = -statistics["mean"] * factor
        if layer.use_bias:
            summand = summand + np.asarray(layer.get_variable("params", "bias"))
        return args[0] * factor + summand
    if context.method_name != "__call__" or not isinstance(layer, DepthwiseConv):
        return call(*args, **kwargs)
    (x,) = args
    padding = "SAME" if layer.padding == "SAME" else [(int(layer.padding), int(layer.padding))] * 2
    found = jax.lax.conv_general_dilated(
        x,
        layer.get_variable("params", "kernel"),
        (layer.stride, layer.stride),
        padding,
        feature_group_count=x.shape[-1],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return found + layer.get_variable("params", "bias") if layer.use_bias else found


def open_onnx(facts: Facts) -> Encoders:
    """The engine 'onnx', on the CPU; without text.onnx for pictures only. Raises ImportError without the extra, ValueError where
    the folder lacks image.onnx."""
    try:
        import onnxruntime
    except ImportError:
        raise ImportError(MISSING) from None

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors

    def encoder(part: str) -> Callable[[np.ndarray], np.ndarray]:
        path = artefact(facts, FILES[part])
        network = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda batch: network.run([OUTPUT], {INPUTS[part]: batch})[0]

    texts = encoder("text") if FILES["text"] in facts.document["files"] else None
    return Encoders(encoder("image"), texts, padded=False)
