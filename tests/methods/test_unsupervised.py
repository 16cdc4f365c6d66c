"""Base hashers on two views, what can be added to their loss, and clusters of codes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdhash.methods.brcd import BASELINES, brcd, distilled
from kdhash.methods.clusters import choose_count, cluster_codes
from kdhash.methods.unsupervised import BASES
from kdhash.models.hasher import Hasher

RNG = np.random.default_rng(0)
OPTIONS = {"kl": {"temperature": 4.0}, "crd": {"temperature": 0.3}}


def groups(count=32, classes=4, width=12, noise=0.3):
    """Features of `classes` clearly different kinds in two noisy views, and the kinds."""
    kinds = np.arange(count) % classes
    centers = 2 * RNG.normal(size=(classes, width))
    view_i, view_j = (centers[kinds] + noise * RNG.normal(size=(count, width)) for _ in "ij")
    return {"view_i": view_i.astype(np.float32), "view_j": view_j.astype(np.float32)}, kinds


def trained(method, batch, steps=60):
    variables = method.init(jax.random.key(0), batch)
    optimizer = optax.adam(0.01)
    state = optimizer.init(variables)

    def loss(variables):
        outputs, _ = method.forward(variables, batch, None, train=True)
        return method.loss(outputs, batch)[0]

    @jax.jit
    def step(variables, state):
        value, gradients = jax.value_and_grad(loss)(variables)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(variables, updates), state, value

    values = []
    for _ in range(steps):
        variables, state, value = step(variables, state)
        values.append(float(value))
    return variables, values


@pytest.mark.parametrize("name", BASES)
def test_base_hashers_learn_codes_that_tell_kinds_apart(name):
    batch, kinds = groups()
    method = BASES[name].make(Hasher(bits=16))
    variables, values = trained(method, batch)
    assert np.isfinite(values).all()
    assert np.mean(values[-5:]) < np.mean(values[:5])
    codes = np.asarray(method.encode(variables, batch["view_i"])) >= 0
    distances = (codes[:, None] != codes[None]).sum(-1)
    same = kinds[:, None] == kinds[None]
    assert distances[same].mean() + 2 < distances[~same].mean()


def test_options_of_a_base_change_its_loss():
    batch, _ = groups()
    for name, changed in (
        ("cibhash", {"temperature": 1.0}),
        ("greedyhash", {"quantization": 5.0}),
    ):
        losses = []
        for options in ({}, changed):
            method = BASES[name].make(Hasher(bits=8), **options)

            @jax.jit
            def loss(method=method):
                variables = method.init(jax.random.key(0), batch)
                outputs, _ = method.forward(variables, batch, None, train=True)
                return method.loss(outputs, batch)[0]

            losses.append(float(loss()))
        assert abs(losses[0] - losses[1]) > 1e-3
        assert set(changed) <= set(BASES[name].options)


def test_a_network_of_pictures_is_a_hasher_too_and_its_statistics_move():
    pictures = RNG.random((8, 16, 16, 3), dtype=np.float32)
    batch = {"view_i": pictures, "view_j": pictures[:, :, ::-1]}
    model = Hasher(
        bits=8, hidden=6, arch="resnet_cifar", sizes=(("depth", 8),), mean=(0.5,) * 3, std=(0.25,) * 3
    )
    method = BASES["cibhash"].make(model)
    variables = jax.jit(method.init)(jax.random.key(0), batch)
    outputs, stats = jax.jit(lambda v: method.forward(v, batch, None, train=True))(variables)
    assert outputs["logits_i"].shape == outputs["logits_j"].shape == (8, 8)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), variables["batch_stats"], stats)
    assert min(jax.tree.leaves(moved)) > 0
    assert method.encode(variables, pictures).shape == (8, 8)


@pytest.mark.parametrize("name", [*BASELINES, "brcd"])
def test_a_student_comes_near_its_teacher(name):
    batch, kinds = groups()
    codes = np.where(RNG.normal(size=(4, 16)) > 0, 1, -1)[kinds].astype(np.float32)
    batch |= {"teacher_codes_i": codes, "teacher_codes_j": codes, "cluster": kinds}
    batch |= {"teacher_features_i": (codes @ RNG.normal(size=(16, 5))).astype(np.float32)}
    if name == "brcd":
        centers = jnp.asarray([codes[kinds == kind].mean(axis=0) for kind in range(4)])
        objective = brcd(centers, jnp.ones((4, 16)))
    else:
        objective = BASELINES[name](**OPTIONS.get(name, {}))
    base = BASES["cibhash"].make(Hasher(bits=16, regress_to=5 if name == "feature" else 0))
    method = distilled(base, objective, weight={"sp": 300.0, "pkt": 10000.0}.get(name, 3.0))
    variables, values = trained(method, batch, steps=80)
    outputs, _ = method.forward(variables, batch, None, train=True)
    total, terms = method.loss(outputs, batch)
    own, _ = base.loss(outputs, batch)
    np.testing.assert_allclose(total, own + terms["distill"], rtol=1e-5)
    before = method.init(jax.random.key(0), batch)
    first = method.loss(method.forward(before, batch, None, train=True)[0], batch)[1]["distill"]
    assert terms["distill"] < first


def test_the_teacher_gets_no_gradient():
    batch, kinds = groups()
    codes = np.where(RNG.normal(size=(32, 16)) > 0, 1, -1).astype(np.float32)
    base = BASES["cibhash"].make(Hasher(bits=16))
    variables = base.init(jax.random.key(0), batch)
    for name in ("kl", "rkd", "sp", "pkt", "crd", "brcd"):
        objective = (
            brcd(jnp.asarray(codes[:4]), None) if name == "brcd" else BASELINES[name](**OPTIONS.get(name, {}))
        )
        method = distilled(base, objective)

        def loss(teacher, method=method):
            full = batch | {"teacher_codes_i": teacher, "teacher_codes_j": teacher, "cluster": kinds}
            return method.loss(base.forward(variables, full, None, train=True)[0], full)[0]

        assert np.abs(jax.grad(loss)(jnp.asarray(codes))).max() == 0, name


def codes_of(clusters, each=40, bits=24, flips=0.05):
    centers = RNG.integers(0, 2, (clusters, bits)) * 2 - 1
    codes = np.repeat(centers, each, axis=0)
    return np.where(RNG.random(codes.shape) < flips, -codes, codes).astype(np.float32)


def test_clusters_of_codes_are_found_again():
    codes = codes_of(5)
    found = cluster_codes(codes, 5, seed=0, starts=5)
    assert found.centers.shape == (5, 24)
    assert all(len(set(part)) == 1 for part in np.split(found.members, 5))
    again = cluster_codes(codes, 5, seed=0, starts=5)
    np.testing.assert_array_equal(found.members, again.members)


def test_elbow_and_silhouette_choose_the_number_that_there_is():
    choice = choose_count(codes_of(6), (2, 4, 6, 8, 12), seed=0)
    assert choice.elbow == choice.best_silhouette == 6
    assert list(choice.inertia) == sorted(choice.inertia, reverse=True)


@pytest.mark.parametrize("counts", [(2, 3), (1, 2, 3), (4, 3, 5), (2, 2, 3)])
def test_counts_that_make_no_sense_are_errors(counts):
    with pytest.raises(ValueError, match="at least three, rising"):
        choose_count(codes_of(3), counts, seed=0)


def test_more_clusters_than_codes_are_an_error():
    with pytest.raises(ValueError, match="4 clusters of 1 different codes"):
        cluster_codes(np.ones((10, 8), np.float32), 4, seed=0)
