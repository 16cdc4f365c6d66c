"""MobileNets against transformers' and torchvision's, with random weights; and as students."""

import pytest

from kdhash.teachers.families import FAMILIES
from kdhash.teachers.families.mobilenet import v1_sizes, v2_sizes
from tests.teachers.families.parity import assert_parity, need, randomized


@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("version", [1, 2])
def test_transformers(version, padding):
    (transformers,) = need("transformers")
    options = {"depth_multiplier": 0.35, "tf_padding": padding, "num_labels": 5}
    config = getattr(transformers, f"MobileNetV{version}Config")(**options)
    module = randomized(getattr(transformers, f"MobileNetV{version}ForImageClassification")(config))
    base = getattr(module, f"mobilenet_v{version}")

    def reference(x):
        outputs = base(x)
        return {
            "spatial": outputs.last_hidden_state,
            "features": outputs.pooler_output,
            "logits": module(x).logits,
        }

    sizes = (v1_sizes if version == 1 else v2_sizes)(config.to_dict())
    assert_parity(f"mobilenet_v{version}", "huggingface", sizes, module, reference, image_sizes=(64, 75))


def test_torchvision():
    (torchvision,) = need("torchvision")
    module = randomized(torchvision.models.mobilenet_v2(num_classes=5, width_mult=0.5))

    def reference(x):
        spatial = module.features(x)
        return {"spatial": spatial, "features": spatial.mean((2, 3)), "logits": module(x)}

    sizes = {"multiplier": 0.5, "same_padding": False, "epsilon": 1e-5}
    assert_parity("mobilenet_v2", "torchvision", sizes, module, reference, image_sizes=(64, 75))


def test_timm():
    (timm,) = need("timm")
    module = randomized(timm.create_model("mobilenetv2_050", num_classes=5))

    def reference(x):
        spatial = module.forward_features(x)
        return {"spatial": spatial, "features": spatial.mean((2, 3)), "logits": module(x)}

    sizes = {"multiplier": 0.5, "same_padding": False, "epsilon": 1e-5}
    assert_parity("mobilenet_v2", "timm", sizes, module, reference, image_sizes=(64, 75))


@pytest.mark.parametrize("layout", ["large", "small"])
def test_v3_torchvision(layout):
    (torchvision,) = need("torchvision")
    module = randomized(getattr(torchvision.models, f"mobilenet_v3_{layout}")(num_classes=5))

    def reference(x):
        spatial = module.features(x)
        return {
            "spatial": spatial,
            "features": module.classifier[:2](spatial.mean((2, 3))),
            "logits": module(x),
        }

    sizes = {"layout": layout, "epsilon": 1e-3}
    assert_parity("mobilenet_v3", "torchvision", sizes, module, reference, image_sizes=(64, 75))


@pytest.mark.parametrize("name", ["mobilenetv3_large_100", "tf_mobilenetv3_small_100"])
def test_v3_timm(name):
    (timm,) = need("timm")
    module = randomized(timm.create_model(name, num_classes=5))

    def reference(x):
        spatial = module.forward_features(x)
        features = module.forward_head(spatial, pre_logits=True)
        return {"spatial": spatial, "features": features, "logits": module(x)}

    sizes = FAMILIES["mobilenet_v3"].variants[name].sizes
    assert_parity("mobilenet_v3", "timm", sizes, module, reference, image_sizes=(64, 75))


@pytest.mark.parametrize("field", [{"hidden_act": "silu"}, {"output_stride": 8}])
def test_what_cannot_be_expressed_is_named(field):
    config = {
        "depth_multiplier": 1.0, "min_depth": 8, "tf_padding": True, "layer_norm_eps": 1e-3,
        "depth_divisible_by": 8, "expand_ratio": 6.0, "finegrained_output": True,
    }  # fmt: skip
    assert v2_sizes(config)["expansion"] == 6.0
    with pytest.raises(ValueError, match=next(iter(field))):
        v2_sizes(config | field)
