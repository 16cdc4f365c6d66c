"""Flax networks in Orbax checkpoints as teachers."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from kdhash.models.backbones import make_backbone
from kdhash.teachers.registry import load_teacher
from kdhash.teachers.sources import find_source, read_state, weights_hash
from kdhash.training.checkpoints import Checkpoints

SPEC = {"arch": "convnet", "sizes": {"widths": (4, 8)}, "mean": (0.5,) * 3, "std": (0.5,) * 3}
PICTURES = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    module = make_backbone("convnet", classes=5, widths=(4, 8))
    variables = module.init(jax.random.key(1), jnp.zeros((1, 8, 8, 3)))
    return module, variables


def outputs_of(weights):
    teacher = load_teacher("t", SPEC | {"weights": str(weights)}, image_size=8, classes=5)
    return teacher.apply(teacher.variables, PICTURES)


def save(folder, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), tree)


def test_a_plain_checkpoint_is_a_teacher(tmp_path, network):
    module, variables = network
    save(tmp_path / "net", variables)
    expected = module.apply(variables, (PICTURES - 0.5) / 0.5, train=False)
    np.testing.assert_allclose(outputs_of(tmp_path / "net")["logits"], expected["logits"], atol=1e-5)


def test_the_newest_step_of_a_run_is_read_without_its_optimiser(tmp_path, network):
    _, variables = network
    with Checkpoints(tmp_path / "run") as checkpoints:
        for step, factor in ((9, 0.0), (10, 1.0)):
            scaled = jax.tree.map(lambda leaf, factor=factor: leaf * factor, variables)
            checkpoints.save(step, {**scaled, "opt_state": {"trace": jnp.ones(3)}}, score=-step)
    state = read_state(find_source(str(tmp_path / "run")))
    assert {name.split("/")[0] for name in state} <= {"params", "batch_stats"}
    flat, _ = jax.tree_util.tree_flatten_with_path(variables)
    for path, leaf in flat:
        np.testing.assert_array_equal(state["/".join(key.key for key in path)], leaf)


def test_the_hash_follows_the_weights(tmp_path, network):
    _, variables = network
    save(tmp_path / "a", variables)
    save(tmp_path / "b", jax.tree.map(lambda leaf: leaf + 1, variables))
    digests = [weights_hash(find_source(str(tmp_path / name))).hexdigest() for name in "aab"]
    assert digests[0] == digests[1] != digests[2]


def test_other_checkpoints_are_refused_by_what_they_hold(tmp_path, network):
    save(tmp_path / "other", {"weights": jnp.ones(3), "step": jnp.ones(())})
    with pytest.raises(ValueError, match="step, weights at its top, but no 'params'"):
        read_state(find_source(str(tmp_path / "other")))
    save(tmp_path / "two" / "left", network[1])
    save(tmp_path / "two" / "right", network[1])
    with pytest.raises(ValueError, match="left, right; name one"):
        find_source(str(tmp_path / "two"))


def test_a_damaged_checkpoint_is_named(tmp_path, network):
    save(tmp_path / "net", network[1])
    for path in (tmp_path / "net").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="net: not a readable Orbax checkpoint"):
        read_state(find_source(str(tmp_path / "net")))
