"""How a file of oracle values is checked: one jitted program a case and precision, compared entry by entry."""

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def case_of(vectors, case, dtype=np.float32):
    """The arrays of one case without its prefix; float32 ones, which are inputs, as `dtype`."""
    found = {key.split(".", 1)[1]: value for key, value in vectors.items() if key.startswith(case + ".")}
    return {key: value.astype(dtype) if value.dtype == np.float32 else value for key, value in found.items()}


def values_and_gradients(losses):
    """inputs -> {loss: (value, gradient)}, jitted: a program of its own for each loss would take a minute to compile."""

    def run(inputs):
        return {name: jax.value_and_grad(loss)(inputs) for name, loss in losses.items()}

    return jax.jit(run)


def close(actual, reference, relative=2e-5, absolute=1e-7):
    """Within `relative` of the largest value and `absolute`; where `actual` is float64, within 1e-9 and 1e-12."""
    if np.asarray(actual).dtype == np.float64:
        relative, absolute = 1e-9, 1e-12
    assert np.shape(actual) == np.shape(reference)
    error = np.abs(np.asarray(actual, np.float64) - reference).max()
    assert error <= relative * np.abs(reference).max() + absolute


def over_eight_devices(rows):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    return jax.device_put(rows, NamedSharding(mesh, PartitionSpec("data")))
