"""image.stablehlo, text.stablehlo: inputs to packed codes as one portable program each, any batch, for CPU, CUDA and TPU."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax import export
from jaxtyping import Array

from kdhash.export.model import Encoders, Facts, artefact

PLATFORMS = ("cpu", "cuda", "tpu")
FILES = {"image": "image.stablehlo", "text": "text.stablehlo"}


def write_stablehlo(
    path: Path, codes: Callable[[Array], Array], width: tuple[int, ...], dtype: np.dtype
) -> None:
    """Writes `codes`, a function of [batch, *width], with its constants and with a symbolic batch."""
    (batch,) = export.symbolic_shape("batch")
    exported = export.export(jax.jit(codes), platforms=PLATFORMS)(
        jax.ShapeDtypeStruct((batch, *width), dtype)
    )
    path.write_bytes(exported.serialize())


def open_stablehlo(facts: Facts) -> Encoders:
    """The engine 'stablehlo'."""

    def encoder(name: str) -> Callable[[np.ndarray], np.ndarray]:
        program = jax.jit(export.deserialize(bytearray(artefact(facts, name).read_bytes())).call)
        return lambda batch: np.asarray(program(batch))

    texts = encoder(FILES["text"]) if "text" in facts.document["network"] else None
    return Encoders(encoder(FILES["image"]), texts, padded=True)
