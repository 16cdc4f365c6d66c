"""DINOv2 against timm and transformers, with registers and without; Facebook's names by transformers' networks renamed."""

import re
from types import SimpleNamespace

import pytest

from kdhash.teachers.families import FAMILIES
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


# transformers' names in memory -> those of github.com/facebookresearch/dinov2
FACEBOOK = {
    r"embeddings\.(cls_token|mask_token|register_tokens)": r"\1",
    r"embeddings\.position_embeddings": "pos_embed",
    r"embeddings\.patch_embeddings\.projection\.(\w+)": r"patch_embed.proj.\1",
    r"encoder\.layer\.(\d+)\.(norm[12])\.(\w+)": r"blocks.\1.\2.\3",
    r"encoder\.layer\.(\d+)\.attention\.[qkv]_proj\.(\w+)": r"blocks.\1.attn.qkv.\2",
    r"encoder\.layer\.(\d+)\.attention\.o_proj\.(\w+)": r"blocks.\1.attn.proj.\2",
    r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1": r"blocks.\1.ls\2.gamma",
    r"encoder\.layer\.(\d+)\.mlp\.(fc[12])\.(\w+)": r"blocks.\1.mlp.\2.\3",
    r"encoder\.layer\.(\d+)\.mlp\.(gate|up)_proj\.(\w+)": r"blocks.\1.mlp.w12.\3",
    r"encoder\.layer\.(\d+)\.mlp\.down_proj\.(\w+)": r"blocks.\1.mlp.w3.\2",
    r"layernorm\.(\w+)": r"norm.\1",
}


def facebook_state(net):
    """The network's weights as Facebook names them; query, key, value and gate, up in one matrix, in this order."""
    import torch

    state = {}
    for name, tensor in net.state_dict().items():
        (new,) = [re.sub(old, new, name) for old, new in FACEBOOK.items() if re.fullmatch(old, name)]
        state[new] = torch.cat([state[new], tensor]) if new in state else tensor
    return state


def facebook_positions(embeddings, x):
    """Without registers Facebook says how much larger the grid gets, by a tenth of a patch too much, not how large."""
    import torch

    table, grid = embeddings.position_embeddings, x.shape[-1] // 14
    side = round((table.shape[1] - 1) ** 0.5)
    if grid == side:
        return table
    patches = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = (grid + 0.1) / side
    patches = torch.nn.functional.interpolate(patches, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("swiglu", [False, True])
def test_equals_facebook(registers, swiglu):
    (transformers,) = need("transformers")
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        use_swiglu_ffn=swiglu,
    )
    net = randomized(getattr(transformers, f"{kind}Model")(config))
    variant = FAMILIES["dinov2_registers" if registers else "dinov2"].variants[
        f"dinov2_vits14{'_reg4' if registers else ''}"
    ]
    sizes = SMALL | {
        "width": 24,
        "hidden": 96,
        "layer_scale": True,
        "antialias": variant.sizes["antialias"],
        "position_offset": variant.sizes.get("position_offset", 0.0),
        "registers": registers,
    }
    if swiglu:
        sizes |= {"hidden": 64, "activation": "swiglu"}

    def reference(x):
        if not registers:
            net.embeddings.interpolate_pos_encoding = lambda *_: facebook_positions(net.embeddings, x)
        body = net(x).last_hidden_state
        side = x.shape[-1] // 14
        patches = body[:, 1 + registers :].transpose(1, 2).reshape(len(x), -1, side, side)
        return {"features": body[:, 0], "spatial": patches}

    assert_parity(
        "dinov2_registers" if registers else "dinov2",
        "facebookresearch",
        sizes,
        SimpleNamespace(state_dict=lambda: facebook_state(net)),
        reference,
        image_sizes=(56, 42, 84),
        classes=None,
    )
