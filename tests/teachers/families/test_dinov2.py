"""DINOv2 against timm and transformers, with registers and without."""

import pytest

from tests.teachers.families.parity import assert_folder_parity, assert_parity, need, randomized

SMALL = {"width": 16, "heads": 2, "depth": 2, "hidden": 64, "patch": 14, "image_size": 56}


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("size", ["small", "giant"])
def test_equals_timm(registers, size):
    (timm,) = need("timm")
    name = f"vit_{size}_patch14{'_reg4' if registers else ''}_dinov2"
    width = 24 if size == "giant" else 16
    net = timm.create_model(
        name, embed_dim=width, num_heads=2, depth=2, img_size=56, num_classes=5, dynamic_img_size=True
    )

    def reference(x):
        tokens = net.forward_features(x)
        return {"features": net.forward_head(tokens, pre_logits=True), "logits": net(x)}

    sizes = SMALL | {"layer_scale": True, "antialias": True, "registers": registers}
    if registers:
        sizes["token_position"] = False
    if size == "giant":
        # timm's width is for gate and value together
        sizes |= {"width": width, "hidden": net.blocks[0].mlp.fc1.out_features // 2, "activation": "swiglu"}
    family = "dinov2_registers" if registers else "dinov2"
    assert_parity(family, "timm", sizes, randomized(net), reference, image_sizes=(56, 42, 84))


@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters"])
@pytest.mark.parametrize("swiglu", [False, True])
def test_equals_transformers(kind, swiglu, tmp_path):
    (transformers,) = need("transformers")
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        num_labels=5,
        use_swiglu_ffn=swiglu,
    )
    registers = 4 if "Registers" in kind else 0
    net = randomized(getattr(transformers, f"{kind}ForImageClassification")(config))

    def reference(x):
        body = next(net.children())(x).last_hidden_state
        side = x.shape[-1] // 14
        patches = body[:, 1 + registers :]
        return {
            "spatial": patches.transpose(1, 2).reshape(len(x), -1, side, side),
            "logits": net(x).logits,
        }

    family = "dinov2_registers" if registers else "dinov2"
    assert_folder_parity(family, net, tmp_path / "classifier", reference, image_sizes=(56, 45, 84))
    body = next(net.children())
    assert_folder_parity(
        family,
        body,
        tmp_path / "body",
        lambda x: {"features": body(x).last_hidden_state[:, 0]},
        image_sizes=(56,),
    )
