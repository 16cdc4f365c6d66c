"""ViT and DeiT against timm, transformers and torchvision."""

import pytest

from tests.teachers.families.parity import assert_folder_parity, assert_parity, need, randomized

SMALL = {"width": 16, "heads": 2, "depth": 2, "hidden": 64, "patch": 8, "image_size": 32}
CONFIG = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_equals_timm(name):
    (timm,) = need("timm")
    net = timm.create_model(
        name,
        embed_dim=16,
        num_heads=2,
        depth=2,
        patch_size=8,
        img_size=32,
        num_classes=5,
        dynamic_img_size=True,
    )
    distilled = "distilled" in name
    two = {"distilled": True, "pool": "two_tokens"} if distilled else {}

    def reference(x):
        tokens = net.forward_features(x)
        features = net.forward_head(tokens, pre_logits=True)
        return {"features": features, "logits": net(x)}

    assert_parity(
        "deit" if distilled else "vit",
        "timm",
        SMALL | two | {"antialias": True},
        randomized(net),
        reference,
        image_sizes=(32, 24, 56),
    )


@pytest.mark.parametrize("name", ["ViT", "DeiT", "DeiT with teacher"])
def test_equals_transformers(name, tmp_path):
    (transformers,) = need("transformers")
    kind = name.split()[0]
    form = "ForImageClassificationWithTeacher" if "teacher" in name else "ForImageClassification"
    net = getattr(transformers, f"{kind}{form}")(getattr(transformers, f"{kind}Config")(**CONFIG))

    def reference(x):
        body = getattr(net, kind.lower())(x, interpolate_pos_encoding=True).last_hidden_state
        features = body[:, :2].mean(dim=1) if "teacher" in name else body[:, 0]
        side = x.shape[-1] // 8
        patches = body[:, -(side * side) :].transpose(1, 2).reshape(len(x), -1, side, side)
        logits = net(x, interpolate_pos_encoding=True).logits
        return {"features": features, "spatial": patches, "logits": logits}

    assert_folder_parity(kind.lower(), randomized(net), tmp_path, reference, image_sizes=(32, 20, 48))


@pytest.mark.parametrize("image_size", [32, 56])
def test_equals_torchvision(image_size):
    """torchvision's networks take pictures of the positions' own size only."""
    torchvision, torch = need("torchvision", "torch")
    net = torchvision.models.VisionTransformer(
        image_size=image_size,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=64,
        num_classes=5,
    )

    def reference(x):
        patches = net.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = net.encoder(torch.cat([net.class_token.expand(len(x), -1, -1), patches], dim=1))
        side = image_size // 8
        return {
            "features": tokens[:, 0],
            "spatial": tokens[:, 1:].transpose(1, 2).reshape(len(x), -1, side, side),
            "logits": net(x),
        }

    assert_parity(
        "vit",
        "torchvision",
        SMALL | {"image_size": image_size},
        randomized(net),
        reference,
        image_sizes=(image_size,),
    )
