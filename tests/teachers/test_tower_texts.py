"""Features of texts from a tower: each text by itself, whatever the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdhash.models.backbones import make_backbone
from kdhash.teachers import tower_texts
from kdhash.teachers.registry import TextTeacher
from kdhash.teachers.tower_texts import TowerTexts
from tests.teachers.test_tokenizer import folder  # noqa: F401 - a fixture

LENGTH = 8


@pytest.fixture
def texts(folder, monkeypatch):  # noqa: F811
    """A CLIP text tower with random weights behind the tokenizer of a few words."""
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    module = make_backbone(
        "clip_text", vocabulary=40, length=LENGTH, width=16, depth=1, heads=2, hidden=24, end=30
    )
    variables = module.init(jax.random.key(0), jnp.zeros((1, LENGTH), jnp.int32))

    def load(name, spec, *, weights_dir, field):
        return TextTeacher(name, module.apply, variables, 512, LENGTH, "identity", 0, {})

    monkeypatch.setattr(tower_texts, "load_text_teacher", load)
    return TowerTexts("words", {"weights": folder.name}, weights_dir=folder.parent)


def test_a_text_has_one_feature_whatever_stands_beside_it(texts):
    words = ["cat", "dog", "a cat", "!"] * 20  # more than one batch
    found = texts.encode(words)
    assert found.shape == (80, 512)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(texts.encode(["dog"])[0], found[77], atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_no_texts_no_features(texts):
    assert texts.encode([]).shape == (0, 512)
