"""EfficientNet against torchvision, timm and transformers."""

import pytest

from kdhash.teachers.families import FAMILIES
from kdhash.teachers.families.efficientnet import sizes_from_config
from tests.teachers.families.parity import assert_folder_parity, assert_parity, need, randomized


def test_equals_torchvision():
    (torchvision,) = need("torchvision")
    from torchvision.models.efficientnet import _efficientnet_conf

    stages, last = _efficientnet_conf("efficientnet_b1", width_mult=0.5, depth_mult=0.6)
    net = torchvision.models.EfficientNet(stages, 0.0, num_classes=5, last_channel=640)

    def reference(x):
        spatial = net.features(x)
        return {"spatial": spatial, "features": spatial.mean((2, 3)), "logits": net(x)}

    sizes = {"wider": 0.5, "deeper": 0.6}
    assert_parity("efficientnet", "torchvision", sizes, randomized(net), reference, image_sizes=(64, 75))


@pytest.mark.parametrize("name", ["efficientnet_b0", "tf_efficientnet_b1"])
def test_equals_timm(name):
    (timm,) = need("timm")
    net = randomized(timm.create_model(name, num_classes=5))

    def reference(x):
        spatial = net.forward_features(x)
        return {"spatial": spatial, "features": spatial.mean((2, 3)), "logits": net(x)}

    sizes = FAMILIES["efficientnet"].variants[name].sizes
    assert_parity("efficientnet", "timm", sizes, net, reference, image_sizes=(64, 75))


@pytest.mark.parametrize(("pixels", "odd_blocks"), [((64, 96), []), ((72,), [5, 9])])
def test_equals_transformers(pixels, odd_blocks, tmp_path):
    """Its padding is chosen for one size of pictures: the blocks whose maps have odd sides there are listed."""
    (transformers,) = need("transformers")
    config = transformers.EfficientNetConfig(
        width_coefficient=0.5,
        depth_coefficient=0.6,
        hidden_dim=640,
        depthwise_padding=odd_blocks,
        num_labels=5,
    )
    net = randomized(transformers.EfficientNetForImageClassification(config))

    def reference(x):
        body = net.efficientnet(x)
        return {
            "spatial": body.last_hidden_state,
            "features": body.pooler_output,
            "logits": net(x).logits,
        }

    assert_folder_parity("efficientnet", net, tmp_path, reference, image_sizes=pixels)


@pytest.mark.parametrize(
    "field", [{"kernel_sizes": [3] * 7}, {"pooling_type": "max"}, {"hidden_act": "gelu"}]
)
def test_what_cannot_be_expressed_is_named(field):
    assert sizes_from_config({"width_coefficient": 1.1})["wider"] == 1.1
    with pytest.raises(ValueError, match=next(iter(field))):
        sizes_from_config(field)
