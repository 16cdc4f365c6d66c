"""From names, shapes and config.json to a network, and what is said where they do not decide."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from kdhash.models.backbones import make_backbone
from kdhash.teachers.families import FAMILIES
from kdhash.teachers.recognize import recognize
from kdhash.teachers.sources import Source, find_source, read_state

BACK = {"keep": (0,), "dense": (1, 0), "flat_dense": (1, 0), "conv": (3, 2, 0, 1)}  # axes as PyTorch has them
WANTS = {"input_size": [3, 192, 192], "crop_pct": 1.0, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


def state_of(family, dialect, **sizes):
    """A state dict of zeros with 3 classes."""
    net = make_backbone(FAMILIES[family].arch, classes=3, **sizes)
    template = jax.eval_shape(lambda: net.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32)))
    leaves = {
        "/".join(key.key for key in path): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(template)[0]
    }
    return {
        source: np.zeros([leaves[target].shape[i] for i in BACK[how]], np.float32)
        for target, (source, how) in FAMILIES[family].dialects[dialect].names(**sizes).items()
    }


def a_source(**config):
    return Source(Path("m.safetensors"), (), config, {})


def test_weights_of_no_known_network_name_the_nearest():
    state = {name: np.zeros((2, 3)) for name in ("conv1.weight", "strange")}
    with pytest.raises(
        ValueError, match=r"fit no known network; nearest is .*left over in the file: .*strange"
    ):
        recognize(a_source(), state)
    with pytest.raises(ValueError, match="variant 'resnet17' is unknown"):
        recognize(a_source(), state, variant="resnet17")


def test_a_misfit_in_shape_says_no_more_than_that():
    state = state_of("resnet", "torchvision", depths=(2, 2, 2, 2), block="basic")
    state["layer1.0.conv1.weight"] = np.zeros((64, 64, 5, 5), np.float32)
    message = (
        "m.safetensors: the weights fit no known network; nearest is resnet18 (torchvision): "
        "the weights do not fit this architecture: layer1.0.conv1.weight gives shape (5, 5, 64, 64), params/"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        recognize(a_source(), state)


def test_the_nearest_misfits_in_the_fewest_shapes():
    state = state_of("resnet", "torchvision", depths=(3, 4, 6, 3), group_width=128)
    state["fc.bias"] = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match=r"nearest is wide_resnet50_2 \(torchvision\)"):
        recognize(a_source(), state)


def test_a_weight_with_the_prefix_and_without_it_is_refused():
    state = state_of("resnet", "huggingface", depths=(2, 2, 2, 2), block="basic")
    stem = "embedder.embedder.convolution.weight"
    state = {name if name.startswith("classifier") else f"resnet.{name}": a for name, a in state.items()}
    assert recognize(a_source(), state).variant == "resnet18"
    state[stem] = state[f"resnet.{stem}"] + 1
    with pytest.raises(ValueError, match=rf"holds {stem} with the prefix 'resnet.' and without it"):
        recognize(a_source(), state)


@pytest.mark.parametrize("size", ["b0", "b1"])
def test_networks_that_differ_in_their_sizes_alone_must_be_named(size):
    variants = FAMILIES["efficientnet"].variants
    own, google = variants[f"efficientnet_{size}"], variants[f"tf_efficientnet_{size}"]
    state = state_of("efficientnet", "timm", **own.sizes)
    message = (
        rf"fits efficientnet_{size}, tf_efficientnet_{size}, which differ in sizes: name one as 'variant'"
    )
    with pytest.raises(ValueError, match=message):
        recognize(a_source(), state)
    named = recognize(a_source(), state, variant=f"tf_efficientnet_{size}")
    assert named.sizes == dict(google.sizes)
    assert named.sizes["same_padding"]
    told = recognize(a_source(architecture=f"tf_efficientnet_{size}"), state)
    assert told.sizes == named.sizes


def test_a_timm_folder_says_what_pictures_it_wants(shared, tmp_path):
    state = read_state(find_source(str(shared / "weights" / "squeezenet1_0.pth")))
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(array) for name, array in state.items()}, tmp_path / "model.safetensors"
    )
    config = {"architecture": "squeezenet1_0", "pretrained_cfg": WANTS}
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = find_source(str(tmp_path))
    network = recognize(source, read_state(source))
    assert (network.variant, network.preprocessing.size) == ("squeezenet1_0", 192)
    assert network.preprocessing.std == (0.4, 0.5, 0.6)


def test_one_file_that_fits_several_networks_must_be_named(shared, monkeypatch):
    family = FAMILIES["squeezenet"]
    first = family.variants["squeezenet1_0"]
    twin = first._replace(preprocessing=first.preprocessing._replace(interpolation="bicubic"))
    monkeypatch.setitem(FAMILIES, "squeezenet", family._replace(variants={**family.variants, "twin": twin}))
    source = find_source(str(shared / "weights" / "squeezenet1_0.pth"))
    state = read_state(source)
    with pytest.raises(ValueError, match=r"fits squeezenet1_0, twin, which differ in preprocessing"):
        recognize(source, state)
    assert recognize(source, state, variant="twin").preprocessing.interpolation == "bicubic"


@pytest.mark.parametrize("dialect", ["huggingface", "torchvision"])
def test_the_names_in_a_file_tell_whose_mobilenet_it_is(dialect):
    state = state_of("mobilenet_v2", dialect)
    wanted = {"huggingface": "mobilenet_v2_1.0_224", "torchvision": "mobilenet_v2"}
    assert recognize(a_source(), state).variant == wanted[dialect]
    headless = {name: array for name, array in state.items() if not name.startswith("classifier")}
    assert recognize(a_source(), headless).classes is None


def test_unknown_model_types_and_architectures_are_named():
    state = state_of("resnet", "torchvision", depths=(3, 4, 6, 3))
    with pytest.raises(ValueError, match=r"model_type 'llama' is unknown; known are .*mobilenet_v1"):
        recognize(a_source(model_type="llama"), state)
    other = a_source(architecture="resnetaa50", pretrained_cfg=WANTS)  # names and shapes of resnet50
    with pytest.raises(
        ValueError, match=r"architecture 'resnetaa50' is unknown .*'variant'.*'arch' and 'sizes'"
    ):
        recognize(other, state)
    assert recognize(other, state, variant="resnet50").preprocessing.size == 192
    assert recognize(other, state, arch="resnet", sizes={"depths": (3, 4, 6, 3)}).variant == "resnet50"


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "resnet50.a1_in1k", "pretrained_cfg": WANTS},
        {"architecture": "resnet50", "pretrained_cfg": WANTS | {"tag": "a1_in1k"}},
        {"architecture": "resnet50", "model_type": "timm_wrapper", "pretrained_cfg": WANTS},
    ],
)
def test_the_tag_of_an_architecture_names_a_training_only(config):
    network = recognize(a_source(**config), state_of("resnet", "torchvision", depths=(3, 4, 6, 3)))
    assert (network.variant, network.preprocessing.size) == ("resnet50", 192)
