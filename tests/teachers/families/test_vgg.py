"""VGG against torchvision and timm."""

import jax.numpy as jnp
import numpy as np
import pytest

from kdhash.models.vgg import adaptive_average_pool
from tests.teachers.families.parity import assert_parity, need, randomized

WIDTHS = (4, 6, 8, 10, 12)


def layout(depth):
    counts = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2)}[depth]
    return [item for width, count in zip(WIDTHS, counts, strict=True) for item in [width] * count + ["M"]]


@pytest.mark.parametrize("norm", [False, True])
def test_equals_torchvision(norm):
    (torchvision,) = need("torchvision")
    import torch

    features = torchvision.models.vgg.make_layers(layout(11), batch_norm=norm)
    net = torchvision.models.VGG(features, num_classes=5)
    net.classifier[0] = torch.nn.Linear(WIDTHS[-1] * 49, 20)
    net.classifier[3] = torch.nn.Linear(20, 20)
    net.classifier[6] = torch.nn.Linear(20, 5)

    def reference(x):
        spatial = net.features(x)
        flat = torch.flatten(net.avgpool(spatial), 1)
        return {"features": net.classifier[:6](flat), "spatial": spatial, "logits": net(x)}

    sizes = {"depth": 11, "norm": norm, "widths": WIDTHS, "hidden": 20}
    assert_parity("vgg", "torchvision", sizes, randomized(net), reference, image_sizes=(224, 70, 331))


@pytest.mark.parametrize("norm", [False, True])
def test_equals_timm(norm):
    (timm,) = need("timm")
    import torch

    net = timm.models.vgg.VGG(layout(13), num_classes=5, norm_layer=torch.nn.BatchNorm2d if norm else None)

    def reference(x):
        body = net.forward_features(x)
        return {"features": net.forward_head(body, pre_logits=True), "logits": net(x)}

    sizes = {"depth": 13, "norm": norm, "widths": WIDTHS, "convolve": True}
    assert_parity("vgg", "timm", sizes, randomized(net), reference, image_sizes=(224, 100, 331))


@pytest.mark.parametrize(("length", "wanted"), [(9, 7), (7, 7), (3, 7), (14, 7), (1, 2)])
def test_adaptive_pool_averages_overlapping_cells(length, wanted):
    x = np.random.default_rng(0).normal(size=(2, length, 5, 3)).astype(np.float32)
    pooled = adaptive_average_pool(jnp.asarray(x), (wanted, 5))
    for cell in range(wanted):
        first, last = int(np.floor(cell * length / wanted)), int(np.ceil((cell + 1) * length / wanted))
        np.testing.assert_allclose(pooled[:, cell], x[:, first:last].mean(axis=1), atol=1e-6)
