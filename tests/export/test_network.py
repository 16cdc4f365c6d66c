"""The tree of a network's arrays, and the flat names of a weights file."""

import numpy as np
import safetensors.numpy

from kdhash.export.network import flattened, nested


def test_arrays_come_back_from_a_file_whatever_their_order_in_memory(tmp_path):
    kernel = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    tree = {"conv": {"kernel": kernel.transpose(2, 0, 1), "scale": np.float32(3)}, "bias": kernel[0, 0, ::2]}
    safetensors.numpy.save_file(flattened(tree), tmp_path / "w.safetensors")
    read = nested(safetensors.numpy.load_file(tmp_path / "w.safetensors"))
    np.testing.assert_array_equal(read["conv"]["kernel"], tree["conv"]["kernel"])
    np.testing.assert_array_equal(read["bias"], tree["bias"])
    assert read["conv"]["scale"].shape == ()
