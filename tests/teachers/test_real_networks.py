"""The real networks, from their files alone, against the outputs that PyTorch gave."""

import jax
import numpy as np
import pytest

from kdhash.teachers.preprocessing import Fitted
from kdhash.teachers.registry import load_teacher

# weights -> (expected file, width, classes, tolerance relative to the largest value: 1e-4 for float32 files)
NETWORKS = {
    "resnet20-12fca82f.th": ("resnet20_cifar10.expected.npz", 64, 10, 1e-4),
    "resnet32-d509ac18.th": ("resnet32_cifar10.expected.npz", 64, 10, 1e-4),
    "resnet44-014dd654.th": ("resnet44_cifar10.expected.npz", 64, 10, 1e-4),
    "resnet56-4bfd9763.th": ("resnet56_cifar10.expected.npz", 64, 10, 1e-4),
    "mobilenet_v1_0.25_128": ("mobilenet_v1_0.25_128/expected.npz", 256, 1001, 2e-3),
    "mobilenet_v1_0.5_160": ("mobilenet_v1_0.5_160/expected.npz", 512, 1001, 2e-3),
    "mobilenet_v1_0.75_192": ("mobilenet_v1_0.75_192/expected.npz", 768, 1001, 2e-3),
    "mobilenet_v2_1.0_224": ("mobilenet_v2_1.0_224/expected.npz", 1280, 1001, 2e-3),
    "squeezenet1_0.pth": ("squeezenet1_0.expected.npz", 512, 1000, 2e-3),
}


@pytest.mark.parametrize("weights", NETWORKS)
def test_outputs_equal_those_of_pytorch(shared, weights):
    file, width, classes, tolerance = NETWORKS[weights]
    with np.load(shared / "weights" / file) as expected:
        images = expected["images"]
        wanted = {name: expected[name] for name in ("features", "logits")}
    teacher = load_teacher(
        "t", {"weights": weights}, weights_dir=shared / "weights", image_size=images.shape[1], classes=3
    )
    assert (teacher.width, teacher.classes) == (width, classes)
    assert teacher.preprocessing.size == images.shape[1]
    outputs = jax.jit(teacher.apply)(teacher.variables, Fitted(images.astype(np.float32) / 255))
    for name, values in wanted.items():
        np.testing.assert_allclose(outputs[name], values, rtol=0, atol=tolerance * np.abs(values).max())


def test_small_pictures_are_brought_to_the_size_that_is_asked_for(shared):
    def load(**changes):
        spec = {"weights": "mobilenet_v1_0.25_128", **changes}
        return load_teacher("t", spec, weights_dir=shared / "weights", image_size=32, classes=3)

    pictures = np.random.default_rng(0).random((2, 32, 32, 3), dtype=np.float32)
    whole, small = load(), load(image_size=64)
    assert (whole.preprocessing.size, small.preprocessing.size) == (128, 64)
    assert whole.identity != small.identity
    for teacher in (whole, small):
        assert jax.jit(teacher.apply)(teacher.variables, pictures)["features"].shape == (2, 256)
