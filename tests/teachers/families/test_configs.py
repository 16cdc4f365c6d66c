"""A config.json that leaves fields out means what transformers' own class means."""

import pytest

from kdhash.models.backbones import make_backbone
from kdhash.teachers.families import FAMILIES
from tests.teachers.families.parity import need

KINDS = [(family, kind) for family in FAMILIES.values() for kind in family.model_types]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_the_model_type_alone_describes_a_network(family):
    for kind in family.model_types:
        make_backbone(family.arch, **family.sizes_from_config({"model_type": kind}))


@pytest.mark.parametrize("given", [{}, {"hidden_size": 384, "num_attention_heads": 6}], ids=["none", "width"])
@pytest.mark.parametrize(("family", "kind"), KINDS, ids=lambda part: getattr(part, "name", part))
def test_defaults_equal_those_of_transformers(family, kind, given):
    (transformers,) = need("transformers")
    if given and family.arch not in ("vit", "clip_text"):
        pytest.skip("its config has no such fields")
    if given and kind in ("clip", "siglip"):
        given = {"vision_config": given, "text_config": given}
    partial = {"model_type": kind, **given}
    whole = transformers.CONFIG_MAPPING[kind].from_dict(dict(given)).to_dict()
    assert family.sizes_from_config(partial) == family.sizes_from_config(whole)
