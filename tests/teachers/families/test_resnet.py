"""ResNets against torchvision's, timm's and transformers', with random weights."""

import pytest

from kdhash.teachers.families.resnet import sizes_from_config
from tests.teachers.families.parity import assert_parity, need, randomized

torchvision, transformers = need("torchvision", "transformers")


@pytest.mark.parametrize(
    "sizes",
    [
        {"depths": (1, 2, 1, 1), "block": "basic"},
        {"depths": (1, 2, 1, 1)},
        {"depths": (1, 1, 1, 1), "groups": 4, "group_width": 8},
        {"depths": (1, 1, 1, 1), "group_width": 128},
    ],
    ids=["basic", "bottleneck", "resnext", "wide"],
)
def test_torchvision(sizes):
    resnet = torchvision.models.resnet
    block = resnet.BasicBlock if sizes.get("block") == "basic" else resnet.Bottleneck
    module = randomized(
        resnet.ResNet(
            block,
            sizes["depths"],
            num_classes=5,
            groups=sizes.get("groups", 1),
            width_per_group=sizes.get("group_width", 64),
        )
    )

    def reference(x):
        logits = module(x)
        x = module.maxpool(module.relu(module.bn1(module.conv1(x))))
        spatial = module.layer4(module.layer3(module.layer2(module.layer1(x))))
        return {"spatial": spatial, "features": spatial.mean((2, 3)), "logits": logits}

    assert_parity("resnet", "torchvision", sizes, module, reference, image_sizes=(64, 75))


@pytest.mark.parametrize("layer", ["basic", "bottleneck"])
def test_transformers(layer):
    config = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 48, 64, 80], depths=[1, 2, 1, 1], layer_type=layer, num_labels=5
    )
    module = randomized(transformers.ResNetForImageClassification(config))

    def reference(x):
        outputs = module.resnet(x)
        return {
            "spatial": outputs.last_hidden_state,
            "features": outputs.pooler_output.flatten(1),
            "logits": module(x).logits,
        }

    sizes = sizes_from_config(config.to_dict())
    assert_parity("resnet", "huggingface", sizes, module, reference, image_sizes=(64, 75))
