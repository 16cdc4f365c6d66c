"""Swin against torchvision, timm and transformers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdhash.models.backbones import make_backbone
from kdhash.models.swin import strangers
from kdhash.teachers.convert import convert
from kdhash.teachers.families import FAMILIES
from tests.teachers.families.parity import assert_folder_parity, assert_parity, need, randomized

SIZES = {"depths": (2, 2), "width": 8, "heads": (2, 4), "window": 4}


def test_equals_torchvision():
    (torchvision,) = need("torchvision")
    net = torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 4], [4, 4], num_classes=5)

    def reference(x):
        spatial = net.norm(net.features(x))
        return {
            "features": spatial.mean(dim=(1, 2)),
            "spatial": spatial.permute(0, 3, 1, 2),
            "logits": net(x),
        }

    # whole windows; windows filled up; a map no larger than a window; pixels left over
    assert_parity("swin", "torchvision", SIZES, randomized(net), reference, image_sizes=(64, 76, 32, 58))


@pytest.mark.parametrize("pixels", [64, 76, 32])
def test_equals_timm(pixels):
    (timm,) = need("timm")
    net = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=pixels,
        depths=(2, 2),
        embed_dim=8,
        num_heads=(2, 4),
        window_size=4,
        num_classes=5,
    )

    def reference(x):
        body = net.forward_features(x)
        return {
            "features": net.forward_head(body, pre_logits=True),
            "spatial": body.permute(0, 3, 1, 2),
            "logits": net(x),
        }

    sizes = SIZES | {"shift_first": True}
    assert_parity("swin", "timm", sizes, randomized(net), reference, image_sizes=(pixels,))


def test_microsofts_names_differ_in_where_merging_belongs():
    (timm,) = need("timm")
    net = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        depths=(2, 2),
        embed_dim=8,
        num_heads=(2, 4),
        window_size=4,
        num_classes=5,
    )
    newer = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    older = {
        re.sub(r"layers\.1\.downsample", "layers.0.downsample", name.replace("head.fc.", "head.")): array
        for name, array in newer.items()
    }
    older["layers.0.blocks.1.attn_mask"] = np.zeros((4, 16, 16))
    module = make_backbone("swin", classes=5, **SIZES)
    template = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    read = []
    for dialect, state in (("timm", newer), ("microsoft", older)):
        spoken = FAMILIES["swin"].dialects[dialect]
        read.append(convert(spoken.weights(state), spoken.names(**SIZES), template, source=dialect))
    jax.tree.map(np.testing.assert_array_equal, *read)


def test_equals_transformers(tmp_path):
    (transformers,) = need("transformers")
    config = transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=5
    )
    net = transformers.SwinForImageClassification(config)

    def reference(x):
        body = net.swin(x, interpolate_pos_encoding=True)
        side = int(body.last_hidden_state.shape[1] ** 0.5)
        patches = body.last_hidden_state.transpose(1, 2).reshape(len(x), -1, side, side)
        return {"features": body.pooler_output, "spatial": patches, "logits": net(x).logits}

    assert_folder_parity("swin", randomized(net), tmp_path, reference, image_sizes=(64, 76))


def test_places_that_a_shift_brings_together_stay_apart():
    apart = strangers(2, 2, 4, (2, 2)) < 0
    assert not apart[0].any()  # the first window holds neighbours only
    corner = apart[3].reshape(4, 4, 4, 4)  # the last holds parts of all four corners
    assert corner[0, 0, 3, 3]
    assert corner[0, 0, 0, 3]
    assert not corner[0, 0, 1, 1]
    across = strangers(1, 2, 4, (0, 2)) < 0
    assert not across[0].any()
    assert across[1].reshape(4, 4, 4, 4)[0, 0, 0, 3]
    assert not across[1].reshape(4, 4, 4, 4)[0, 0, 3, 0]
