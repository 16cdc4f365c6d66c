"""CLIP's two towers and SigLIP's image tower against transformers."""

import jax
import numpy as np
import pytest

from kdhash.models.backbones import make_backbone
from kdhash.teachers.cli import check_weights
from kdhash.teachers.registry import load_text_teacher
from tests.teachers.families.parity import assert_folder_parity, need, randomized

TOWER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
VISION = TOWER | {"image_size": 32, "patch_size": 8}
TEXT = TOWER | {
    "vocab_size": 99,
    "max_position_embeddings": 12,
    "bos_token_id": 97,
    "eos_token_id": 98,
    "pad_token_id": 98,
}
IDS = np.array([[97, 5, 6, 98, 98, 98], [97, 7, 98, 98, 98, 98], [97, 1, 2, 3, 4, 98]], np.int32)


def clip():
    (transformers,) = need("transformers")
    config = transformers.CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=10)
    return randomized(transformers.CLIPModel(config))


def patch_grid(net, x, patch=8):
    """The normed patches of a CLIP tower, which transformers norms only for the pooled token."""
    hidden = net(x, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
    side = x.shape[-1] // patch
    return net.post_layernorm(hidden).transpose(1, 2).reshape(len(x), -1, side, side)


def test_image_tower_of_a_file_of_both(tmp_path):
    net = clip()

    def reference(x):
        features = net.get_image_features(pixel_values=x, interpolate_pos_encoding=True)
        return {
            "features": getattr(features, "pooler_output", features),
            "spatial": patch_grid(net.vision_model, x),
        }

    assert_folder_parity("clip", net, tmp_path, reference, image_sizes=(32, 24, 44))


@pytest.mark.parametrize("form", ["CLIPVisionModelWithProjection", "CLIPVisionModel"])
def test_image_tower_of_its_own_file(form, tmp_path):
    (transformers,) = need("transformers")
    net = randomized(getattr(transformers, form)(transformers.CLIPVisionConfig(**VISION, projection_dim=10)))

    def reference(x):
        outputs = net(x)
        return {"features": outputs.image_embeds if "Projection" in form else outputs.pooler_output}

    assert_folder_parity("clip", net, tmp_path, reference, image_sizes=(32,))


@pytest.mark.parametrize("form", ["CLIPModel", "CLIPTextModelWithProjection", "CLIPTextModel"])
def test_text_tower(form, tmp_path):
    (transformers,) = need("transformers")
    import torch

    if form == "CLIPModel":
        net = clip()
    else:
        net = randomized(getattr(transformers, form)(transformers.CLIPTextConfig(**TEXT, projection_dim=10)))
    net.save_pretrained(tmp_path)
    teacher = load_text_teacher("t", {"weights": str(tmp_path)})
    assert teacher.length == 12
    assert check_weights(str(tmp_path))["loads"] == "yes"
    for ids in (IDS, IDS[:2, :4]):
        given = torch.from_numpy(ids).long()
        with torch.no_grad():
            outputs = net.get_text_features(input_ids=given) if form == "CLIPModel" else net(input_ids=given)
        expected = getattr(outputs, "text_embeds", None)
        expected = getattr(outputs, "pooler_output", outputs) if expected is None else expected
        features = teacher.apply(teacher.variables, ids)["features"]
        assert features.shape[1] == teacher.width
        np.testing.assert_allclose(features, expected.numpy(), rtol=0, atol=1e-4 * np.abs(expected).max())


def test_padding_does_not_change_a_text():
    tower = make_backbone(
        "clip_text", vocabulary=99, length=12, width=16, depth=2, heads=2, hidden=24, end=98
    )
    variables = jax.jit(tower.init)(jax.random.key(0), IDS)
    apply = jax.jit(tower.apply)
    short = apply(variables, IDS[1:2, :3])["features"]
    np.testing.assert_allclose(apply(variables, IDS[1:2])["features"], short, atol=1e-6)
    with pytest.raises(ValueError, match="texts of 13 tokens; this network reads at most 12"):
        tower.apply(variables, np.zeros((1, 13), np.int32))


@pytest.mark.parametrize("form", ["SiglipModel", "SiglipVisionModel"])
def test_siglip(form, tmp_path):
    (transformers,) = need("transformers")
    if form == "SiglipModel":
        text = TOWER | {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1}
        config = transformers.SiglipConfig(vision_config=VISION, text_config=text)
    else:
        config = transformers.SiglipVisionConfig(**VISION)
    net = randomized(getattr(transformers, form)(config))
    tower = getattr(net, "vision_model", net)

    def reference(x):
        outputs = tower(pixel_values=x, interpolate_pos_encoding=True)
        side = x.shape[-1] // 8
        patches = outputs.last_hidden_state.transpose(1, 2).reshape(len(x), -1, side, side)
        return {"features": outputs.pooler_output, "spatial": patches}

    assert_folder_parity("siglip", net, tmp_path, reference, image_sizes=(32, 20, 48))
