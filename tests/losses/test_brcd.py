"""Every value and gradient of brcd.npz, published variants and corrected ones; masks; all in float32 and float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdhash import losses
from tests.losses.vectors import case_of, close, over_eight_devices

CASES = ("c0", "c1", "c2", "c3")
STEPS = {
    "plain": (),
    "rd": ("rd",),
    "fn": ("fn",),
    "fp": ("fp",),
    "rd_fn": ("rd", "fn"),
    "rd_fp": ("rd", "fp"),
}
TOLERANCE = {32: (2e-5, 1e-7), 64: (1e-9, 1e-12)}


@pytest.fixture(scope="module")
def vectors(oracle):
    return oracle("brcd")


def alone(o, dtype):
    """{variant of BRCDLoss: the loss as a function of the student's codes}."""
    t_i, t_j, mask = (jnp.asarray(o[key], dtype) for key in ("t_i", "t_j", "brcdloss.row_mask"))
    removed = jnp.asarray(o["brcdloss.fn_matrix"]) < 0
    pairs, free = (jnp.asarray(o[f"brcdloss.alpha_vec_{kind}"], dtype) for kind in ("pairs", "free"))
    base = partial(losses.brcd_loss, teacher_codes=t_i, teacher_codes_other=t_j, temperature=float(o["tau"]))
    return {
        "plain": partial(base, alpha=pairs),
        "masked": partial(base, alpha=pairs, masks=mask),
        "falseneg": partial(base, alpha=pairs, false_negatives=removed),
        "masked_falseneg": partial(base, alpha=pairs, masks=mask, false_negatives=removed),
        "masked_falseneg_freealpha": partial(base, alpha=free, masks=mask, false_negatives=removed),
        "zero_mask_falseneg": partial(base, alpha=pairs, masks=0 * mask, false_negatives=removed),
    }


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bits", TOLERANCE)
def test_the_loss_alone(vectors, case, bits):
    o = case_of(vectors, case)
    with jax.enable_x64(bits == 64):
        variants = alone(o, f"float{bits}")
        student = jnp.asarray(o["brcdloss.z_i"], f"float{bits}")
        found = jax.jit(lambda z: {name: jax.value_and_grad(loss)(z) for name, loss in variants.items()})(
            student
        )
        for name, (value, gradient) in found.items():
            close(value, o[f"brcdloss.{name}.loss"], *TOLERANCE[bits])
            close(gradient, o[f"brcdloss.{name}.grad_z_i"], *TOLERANCE[bits])


def published(o, options, dtype):
    """The released step with some of its options: distillation alone, and with CIBHash's loss."""
    clusters = o["index_to_cluster"][o["item_index"]]

    def distill(logits):
        return losses.brcd_distillation(
            logits,
            jnp.asarray(o["t_i"], dtype),
            jnp.asarray(o["t_j"], dtype),
            clusters,
            jnp.asarray(o["centers"], dtype),
            masks=jnp.asarray(o["mask_matrix"], dtype) if "rd" in options else None,
            remove_false_negatives=bool({"fn", "fp"} & set(options)),
            offset_positives="fp" in options,
            alpha=float(o["alpha"]),
            temperature=float(o["tau"]),
            published="fp" in options,
        )

    return distill


def fixed_block(o, options, dtype):
    """The released step with its blocks of false negatives put right, and nothing else."""
    t_i, t_j = (jnp.asarray(o[key], dtype) for key in ("t_i", "t_j"))
    clusters = o["index_to_cluster"][o["item_index"]]
    masks = jnp.asarray(o["mask_matrix"], dtype)[clusters] if "rd" in options else None
    seen = t_j if masks is None else t_j * masks
    other = losses.nearest_center(seen, jnp.asarray(o["centers"], dtype))
    kind = "masked" if "rd" in options else "unmasked"
    np.testing.assert_array_equal(other, o[f"assign.aug_cluster_{kind}"])
    removed = losses.same_cluster(clusters, other)
    name = f"step_fixed_block.{'_'.join(options)}"
    np.testing.assert_array_equal(removed, o[f"{name}.fn_matrix"] < 0)
    alpha = losses.offset_alpha(clusters, other, float(o["alpha"]))
    np.testing.assert_allclose(alpha, o[f"{name}.alpha_vec"], rtol=1e-6)

    def distill(logits):
        return losses.brcd_loss(
            losses.straight_through_sign(jax.nn.sigmoid(logits) - 0.5),
            t_i,
            t_j,
            alpha=alpha,
            temperature=float(o["tau"]),
            masks=masks,
            false_negatives=removed,
        )

    return distill


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bits", TOLERANCE)
def test_the_step(vectors, case, bits):
    o = case_of(vectors, case)
    dtype = f"float{bits}"
    with jax.enable_x64(bits == 64):
        steps = {f"step_published.{name}": published(o, options, dtype) for name, options in STEPS.items()}
        steps |= {f"step_fixed_block.{name}": fixed_block(o, STEPS[name], dtype) for name in ("fp", "rd_fp")}

        def total(distill, i, j):
            own = losses.cibhash_loss(i, j, temperature=float(o["tau"]), kl_weight=float(o["kl_weight"]))[0]
            return own + distill(i)

        def all_steps(i, j):
            return {
                name: (
                    jax.value_and_grad(distill)(i),
                    jax.value_and_grad(partial(total, distill), argnums=(0, 1))(i, j),
                )
                for name, distill in steps.items()
            }

        found = jax.jit(all_steps)(*(jnp.asarray(o[f"logits_{view}"], dtype) for view in "ij"))
        for name, ((value, gradient), (whole, gradients)) in found.items():
            close(value, o[f"{name}.distill"], *TOLERANCE[bits])
            close(gradient, o[f"{name}.distill_grad_logits_i"], *TOLERANCE[bits])
            close(whole, o[f"{name}.total"], *TOLERANCE[bits])
            for view, one in zip("ij", gradients, strict=True):
                if f"{name}.total_grad_logits_{view}" in o:
                    close(one, o[f"{name}.total_grad_logits_{view}"], *TOLERANCE[bits])


@pytest.mark.parametrize("case", CASES)
def test_matrices_of_false_negatives_as_published(vectors, case):
    o = case_of(vectors, case)
    clusters = o["index_to_cluster"][o["item_index"]]
    np.testing.assert_array_equal(clusters, o["assign.cluster"])
    for options, kind in (("fp", "unmasked"), ("rd_fp", "masked")):
        found = losses.same_cluster_published(clusters, o[f"assign.aug_cluster_{kind}"])
        np.testing.assert_array_equal(found, o[f"step_published.{options}.fn_matrix"] < 0)
    for options in ("fn", "rd_fn"):
        np.testing.assert_array_equal(
            losses.same_cluster(clusters, clusters), o[f"step_published.{options}.fn_matrix"] < 0
        )


@pytest.mark.parametrize("case", CASES)
def test_shares_of_the_anchor_as_published(vectors, case):
    o = case_of(vectors, case)
    clusters = o["index_to_cluster"][o["item_index"]]
    other = {"fp": "assign.aug_cluster_unmasked", "rd_fp": "assign.aug_cluster_masked"}
    for name in STEPS:
        second = o[other[name]] if name in other else clusters
        alpha = losses.offset_alpha(clusters, second, float(o["alpha"]))
        np.testing.assert_allclose(alpha, o[f"step_published.{name}.alpha_vec"], rtol=1e-6)


def test_corrected_step_looks_at_unmasked_second_views(vectors):
    o = case_of(vectors, "c2")
    clusters = o["index_to_cluster"][o["item_index"]]
    masks = jnp.asarray(o["mask_matrix"], jnp.float32)
    t_i, t_j, centers = (jnp.asarray(o[key], jnp.float32) for key in ("t_i", "t_j", "centers"))
    found = losses.brcd_distillation(o["logits_i"], t_i, t_j, clusters, centers, masks=masks)
    other = o["assign.aug_cluster_unmasked"]
    expected = losses.brcd_loss(
        losses.straight_through_sign(jax.nn.sigmoid(o["logits_i"]) - 0.5),
        t_i,
        t_j,
        alpha=losses.offset_alpha(clusters, other, 0.8),
        masks=masks[clusters],
        false_negatives=losses.same_cluster(clusters, other),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found != losses.brcd_distillation(
        o["logits_i"], t_i, t_j, clusters, centers, masks=masks, published=True
    )


@pytest.mark.parametrize("case", ["m0", "m1", "m2", "m3"])
@pytest.mark.parametrize("margin", [0.1, 0.3, 0.5])
def test_masks(vectors, case, margin):
    o = case_of(vectors, case)
    count = len(o["means"])
    masks = partial(losses.bit_masks, o["codes"], o["labels"], count, margin=margin)
    np.testing.assert_array_equal(masks(), o[f"margin_{margin}.mask_intended"])
    np.testing.assert_array_equal(masks(rule="published"), o[f"margin_{margin}.mask_as_published"])
    np.testing.assert_array_equal(masks(rule="none"), np.ones_like(o["means"]))


def test_a_cluster_without_items_keeps_no_bit_and_a_wrong_rule_is_an_error():
    codes, clusters = np.ones((4, 8)), np.array([0, 0, 2, 2])
    assert losses.bit_masks(codes, clusters, 3).sum(axis=1).tolist() == [8, 0, 8]
    with pytest.raises(ValueError, match="choose one of intended, published, none"):
        losses.bit_masks(codes, clusters, 3, rule="best")


def test_over_eight_devices_the_global_value_and_gradient(vectors):
    o = case_of(vectors, "c1")
    one = published(o, ("rd", "fp"), "float32")
    value, gradient = jax.jit(jax.value_and_grad(one))(over_eight_devices(o["logits_i"]))
    close(value, o["step_published.rd_fp.distill"], 2e-5, 1e-7)
    close(gradient, o["step_published.rd_fp.distill_grad_logits_i"], 2e-5, 1e-7)


def test_all_of_one_cluster_leaves_only_the_positive():
    """No negative is left: the loss is 0 and its gradient too, not NaN."""
    codes = jnp.asarray(np.sign(np.random.default_rng(0).normal(size=(4, 8))), jnp.float32)
    same = jnp.zeros(4, int)
    loss, gradient = jax.jit(jax.value_and_grad(losses.brcd_loss))(
        codes, codes, -codes, false_negatives=losses.same_cluster(same, same)
    )
    assert loss == 0
    assert np.abs(gradient).max() == 0
