"""Hashers of two modalities: every objective brings a pair's codes together, and the students learn their teacher's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdhash.methods.fused_similarity import fit_fused_similarity
from kdhash.methods.kdcmh import FITTED, GROWING, OBJECTIVES, two_towers
from kdhash.models.two_towers import TwoTowers
from tests.losses.vectors import case_of, close

RNG = np.random.default_rng(0)
ITEMS, KINDS, BITS = 48, 4, 16
OPTIONS = {"djsrh": {"beta": 0.6}, "kdcmh": {"scale": 4.0}}


def pairs():
    """Features of both modalities in four kinds, non-negative as those of networks and bags of words; and the kinds."""
    kinds = np.arange(ITEMS) % KINDS
    image, text = (
        np.maximum(2 * np.eye(KINDS, width)[kinds] + 0.3 * RNG.normal(size=(ITEMS, width)), 0)
        for width in (20, 12)
    )
    codes = RNG.choice([-1.0, 1.0], (KINDS, BITS))[kinds]
    batch = {
        "image": image - image.mean(axis=0),
        "text": text,
        "image_seen": image,
        "text_seen": text,
        "image_code": codes,
        "text_code": codes,
    }
    return {name: value.astype(np.float32) for name, value in batch.items()} | {
        "epoch": np.zeros(ITEMS)
    }, kinds


def method_of(kind, batch, **more):
    options = OPTIONS.get(kind, {}) | more
    fitted = [fit_fused_similarity(batch["image_seen"], batch["text_seen"])] if kind in FITTED else []
    model = TwoTowers(BITS, image_hidden=24)
    return two_towers(model, OBJECTIVES[kind](*fitted, **options), grow=kind in GROWING)


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_codes_grow_with_the_epoch_as_djsrh_has_them(oracle, case):
    o = case_of(oracle("crossmodal"), case)
    method = two_towers(TwoTowers(o["hid_img"].shape[1]), OBJECTIVES["djsrh"](beta=0.9, intra=0.1))
    epochs = np.full(len(o["hid_img"]), o["epoch"])
    batch = {"image_seen": o["feat_img"], "text_seen": o["feat_txt"].astype(np.float32), "epoch": epochs}
    value, _ = method.loss({"image_logits": o["hid_img"], "text_logits": o["hid_txt"]}, batch)
    close(value, o["djsrh_mir.loss"])
    assert np.sqrt(o["epoch"] + 1) == pytest.approx(o["tanh_alpha"])


def trained(method, batch, steps=80):
    variables = jax.jit(method.init)(jax.random.key(0), batch)
    optimizer = optax.adam(0.01)
    state = optimizer.init(variables)

    def loss(variables, epoch):
        outputs, stats = method.forward(variables, batch, None, train=True)
        assert stats == {}
        return method.loss(outputs, batch | {"epoch": epoch})

    @jax.jit
    def step(variables, state, epoch):
        (value, _), gradients = jax.value_and_grad(loss, has_aux=True)(variables, epoch)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(variables, updates), state, value

    values = []
    for i in range(steps):
        variables, state, value = step(variables, state, jnp.full(ITEMS, i // 20))
        values.append(float(value))
    return variables, values


def bits_of(method, variables, batch):
    return {
        name: np.asarray(method.encode(variables, {name: jnp.asarray(batch[name])})) >= 0
        for name in ("image", "text")
    }


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_objective_gives_both_modalities_one_space(kind):
    batch, kinds = pairs()
    method = method_of(kind, batch)
    variables, values = trained(method, batch)
    assert np.isfinite(values).all()
    codes = bits_of(method, variables, batch)
    distances = (codes["image"][:, None] != codes["text"][None]).sum(-1)
    same = kinds[:, None] == kinds[None]
    assert distances[same].mean() + 3 < distances[~same].mean()


def test_a_student_takes_over_the_teachers_similarity():
    """Kinds 0 and 1 have one teacher code: features tell them apart, the student does not."""
    batch, kinds = pairs()
    codes = RNG.choice([-1.0, 1.0], (KINDS, BITS)).astype(np.float32)
    codes[1] = codes[0]
    batch |= {"image_code": codes[kinds], "text_code": codes[kinds]}
    for threshold in (None, 0.99):
        method = method_of("kdcmh", batch, threshold=threshold)
        found = bits_of(method, trained(method, batch)[0], batch)
        distances = (found["image"][:, None] != found["text"][None]).sum(-1)
        a, b, c = (kinds == kind for kind in range(3))
        assert distances[a][:, b].mean() + 2 < distances[a][:, c].mean()


def test_codes_grow_towards_signs_where_the_method_says_so():
    batch, _ = pairs()
    for kind in ("djsrh", "ucch"):
        method = method_of(kind, batch)
        variables = method.init(jax.random.key(0), batch)
        outputs, _ = method.forward(variables, batch, None, train=True)
        early, late = (
            float(method.loss(outputs, batch | {"epoch": np.full(ITEMS, epoch)})[0]) for epoch in (0, 50)
        )
        assert (abs(early - late) > 1e-5) == (kind in GROWING)


def test_one_modality_is_enough_to_encode():
    batch, _ = pairs()
    method = method_of("ucch", batch)
    variables = method.init(jax.random.key(0), batch)
    outputs, _ = method.forward(variables, batch, None, train=False)
    for name in ("image", "text"):
        np.testing.assert_allclose(
            method.encode(variables, {name: batch[name]}), outputs[f"{name}_logits"], rtol=1e-5, atol=1e-5
        )
