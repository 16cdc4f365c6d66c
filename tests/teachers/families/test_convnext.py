"""ConvNeXt against torchvision, timm and transformers."""

from tests.teachers.families.parity import assert_folder_parity, assert_parity, need, randomized

SIZES = {"depths": (1, 2, 1, 1), "widths": (8, 12, 16, 20)}


def test_equals_torchvision():
    (torchvision,) = need("torchvision")
    from torchvision.models.convnext import CNBlockConfig

    widths = (*SIZES["widths"], None)
    stages = [CNBlockConfig(widths[i], widths[i + 1], depth) for i, depth in enumerate(SIZES["depths"])]
    net = torchvision.models.ConvNeXt(stages, num_classes=5)

    def reference(x):
        spatial = net.features(x)
        return {
            "features": net.classifier[:2](net.avgpool(spatial)),
            "spatial": spatial,
            "logits": net(x),
        }

    assert_parity("convnext", "torchvision", SIZES, randomized(net), reference, image_sizes=(64, 75))


def test_equals_timm():
    (timm,) = need("timm")
    net = timm.create_model("convnext_tiny", depths=SIZES["depths"], dims=SIZES["widths"], num_classes=5)

    def reference(x):
        spatial = net.forward_features(x)
        return {"features": net.forward_head(spatial, pre_logits=True), "spatial": spatial, "logits": net(x)}

    assert_parity("convnext", "timm", SIZES, randomized(net), reference, image_sizes=(64, 75))


def test_equals_transformers(tmp_path):
    (transformers,) = need("transformers")
    config = transformers.ConvNextConfig(
        hidden_sizes=list(SIZES["widths"]), depths=list(SIZES["depths"]), num_labels=5
    )
    net = transformers.ConvNextForImageClassification(config)

    def reference(x):
        body = net.convnext(x)
        return {
            "features": body.pooler_output,
            "spatial": body.last_hidden_state,
            "logits": net(x).logits,
        }

    assert_folder_parity("convnext", randomized(net), tmp_path, reference, image_sizes=(64, 75))
