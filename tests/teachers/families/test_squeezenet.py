"""SqueezeNets against torchvision's, with random weights."""

import pytest

from tests.teachers.families.parity import assert_parity, need, randomized


@pytest.mark.parametrize("version", ["1_0", "1_1"])
def test_torchvision(version):
    (torchvision,) = need("torchvision")
    module = randomized(torchvision.models.SqueezeNet(version, num_classes=5))

    def reference(x):
        spatial = module.features(x)
        return {"spatial": spatial, "features": spatial.mean((2, 3)), "logits": module(x)}

    assert_parity("squeezenet", "torchvision", {"version": version}, module, reference, image_sizes=(64, 75))
