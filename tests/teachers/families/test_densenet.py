"""DenseNet against torchvision and timm, in both spellings of its names."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from kdhash.models.backbones import make_backbone
from kdhash.teachers.convert import convert
from kdhash.teachers.families import FAMILIES
from tests.teachers.families.parity import assert_parity, need, randomized

SIZES = {"blocks": (2, 3), "growth": 4, "stem_width": 8}


def test_equals_torchvision_and_its_older_names():
    (torchvision,) = need("torchvision")
    import torch

    net = torchvision.models.DenseNet(4, SIZES["blocks"], 8, num_classes=5)

    def reference(x):
        spatial = torch.relu(net.features(x))
        return {"features": spatial.mean(dim=(2, 3)), "spatial": spatial, "logits": net(x)}

    assert_parity("densenet", "timm", SIZES, randomized(net), reference, image_sizes=(64, 75))
    state = {
        re.sub(r"(norm|conv)([12])(?=\.\w+$)", r"\1.\2", name)
        if "denselayer" in name
        else name: tensor.numpy()
        for name, tensor in net.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    dialects = FAMILIES["densenet"].dialects
    module = make_backbone("densenet", classes=5, **SIZES)
    template = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    older = convert(
        dialects["torchvision"].weights(state),
        dialects["torchvision"].names(**SIZES),
        template,
        source="older",
    )
    newer = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    newer = convert(
        dialects["timm"].weights(newer), dialects["timm"].names(**SIZES), template, source="newer"
    )
    jax.tree.map(np.testing.assert_array_equal, older, newer)


def test_equals_timm():
    (timm,) = need("timm")
    net = timm.create_model("densenet121", growth_rate=4, block_config=SIZES["blocks"], num_classes=5)

    def reference(x):
        spatial = net.forward_features(x)
        return {"features": net.forward_head(spatial, pre_logits=True), "spatial": spatial, "logits": net(x)}

    sizes = SIZES | {"stem_width": net.features.conv0.out_channels}
    assert_parity("densenet", "timm", sizes, randomized(net), reference, image_sizes=(64, 75))
