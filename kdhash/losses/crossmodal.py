"""Unsupervised cross-modal hashing: affinities of pairs of a picture and a text, and losses that bring codes to them.

Rows of `image_codes` and `text_codes` with the same index are of the same pair. Codes are relaxed, such as tanh(scale u).
Affinities and similarities are constants. Hand all functions the global batch. Losses with several terms return their sum
and the weighted terms.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kdhash.losses.distillation import squared_error
from kdhash.losses.hashing import balance, quantization, straight_through_sign
from kdhash.losses.pairwise import inner_products
from kdhash.losses.similarity import cosine, cosine_matrix, unit_rows

Scalar = Float[ArrayLike, ""]
Terms = dict[str, Array]


def scaled_cosine(features: Float[Array, "batch width"]) -> Float[Array, "batch batch"]:
    """2 cos - 1 of all pairs of rows, in [-3, 1]; the cosines of a zero row are 0, also that with itself.

    Source: DJSRH (Su, Zhong and Zhang, ICCV 2019), in the form of its program.
    """
    return 2 * cosine_matrix(features, features) - 1


def djsrh_affinity(
    s_image: Float[Array, "batch batch"],
    s_text: Float[Array, "batch batch"],
    *,
    beta: float,
    eta: float = 0.4,
    mu: float = 1.5,
) -> Float[Array, "batch batch"]:
    """mu ((1 - eta) J + eta J J^T / batch), J = beta S_image + (1 - beta) S_text; not clipped.

    S are from `scaled_cosine`. beta: .9 for MIRFLICKR-25K, .6 for NUS-WIDE, .3 for Wiki.
    Source: DJSRH (ICCV 2019), in the form of its program (github.com/zs-zhong/DJSRH).
    """
    joint = beta * s_image + (1 - beta) * s_text
    return mu * ((1 - eta) * joint + eta * inner_products(joint, joint) / len(joint))


def jdsh_fused(
    s_image: Float[Array, "batch batch"],
    s_text: Float[Array, "batch batch"],
    *,
    alpha: float,
    beta: float,
    gamma: float,
) -> Float[Array, "batch batch"]:
    """alpha S_image + beta S_text + gamma (H + H^T) / 2; H holds the cosines of rows of S_image with rows of S_text.

    S are from `scaled_cosine`. (alpha, beta, gamma): (.5, .1, .4) for MIRFLICKR-25K, (.4, .3, .3) for NUS-WIDE.
    Source: JDSH (Liu, Qian, Guan, Zhan and Ying, SIGIR 2020), in the form of its program.
    """
    across = cosine_matrix(s_image, s_text)
    return alpha * s_image + beta * s_text + gamma * (across + across.T) / 2


def weigh_distribution(
    similarity: Float[Array, "rows columns"],
    *,
    left: Scalar,
    right: Scalar,
    lowest: Scalar,
    highest: Scalar,
    l1: Scalar,
    l2: Scalar,
    mu: Scalar = 1.4,
    clip: bool = False,
) -> Float[Array, "rows columns"]:
    """mu s w(s): w = 1 + l1 exp(lowest - s) below `left`, 1 + l2 exp(s - highest) above `right`, and 1 between.

    A weight multiplies whatever the sign of s is: it parts dissimilar from similar pairs where left <= 0 <= right.
    `clip` limits the result to [-1, 1], which a cosine can reach; the published form does not.
    Source: JDSH (SIGIR 2020), in the form of its program (github.com/KaiserLew/JDSH).
    """
    below = 1 + l1 * jnp.exp(lowest - similarity)
    above = 1 + l2 * jnp.exp(similarity - highest)
    weight = jnp.where(similarity < left, below, jnp.where(similarity > right, above, 1.0))
    weighted = similarity * weight * mu
    return jnp.clip(weighted, -1, 1) if clip else weighted


def dsah_affinity(
    s_image: Float[Array, "batch batch"],
    s_text: Float[Array, "batch batch"],
    *,
    alpha: float = 0.9,
    scale: float = 1.5,
) -> Float[Array, "batch batch"]:
    """scale (alpha S_image + (1 - alpha) S_text); not clipped. S are from `scaled_cosine`.

    Source: DSAH (Yang, Wu, Zhang, Zhang, Li and Wang, ICMR 2020), in the form of its program.
    """
    return scale * (alpha * s_image + (1 - alpha) * s_text)


def djsrh_loss(
    image_codes: Float[Array, "batch bits"],
    text_codes: Float[Array, "batch bits"],
    affinity: Float[Array, "batch batch"],
    *,
    intra: float = 0.1,
) -> tuple[Float[Array, ""], Terms]:
    """mean((cos(I, T) - S)^2) and `intra` times the same within pictures and within texts.

    `intra` is .1, for Wiki .3. Source: DJSRH (ICCV 2019), in the form of its program.
    """
    terms = {
        "cross": squared_error(cosine_matrix(image_codes, text_codes), affinity),
        **_within(image_codes, text_codes, affinity, affinity, intra),
    }
    return _sum(terms), terms


def jdsh_loss(
    image_codes: Float[Array, "batch bits"],
    text_codes: Float[Array, "batch bits"],
    affinity: Float[Array, "batch batch"],
    *,
    intra: float = 0.1,
) -> tuple[Float[Array, ""], Terms]:
    """mean((cos(I, T) - S)^2) both ways, minus the mean cosine of pairs, and `intra` times the two within a modality.

    Source: JDSH (SIGIR 2020), in the form of its program.
    """
    cross = cosine_matrix(image_codes, text_codes)
    terms = {
        "cross": squared_error(cross, affinity) + squared_error(cross.T, affinity),
        "pairs": -jnp.mean(cosine(image_codes, text_codes)),
        **_within(image_codes, text_codes, affinity, affinity, intra),
    }
    return _sum(terms), terms


def dsah_loss(
    image_codes: Float[Array, "batch bits"],
    text_codes: Float[Array, "batch bits"],
    affinity: Float[Array, "batch batch"],
    s_image: Float[Array, "batch batch"],
    s_text: Float[Array, "batch batch"],
    *,
    scale: float = 1.5,
    symmetry: float = 2.0,
    own: float = 0.1,
) -> tuple[Float[Array, ""], Terms]:
    """Cosines across and within modalities to `affinity` (`dsah_affinity`), those of pairs to `scale`, the cross-modal ones to
    their transpose (`symmetry`), and those within a modality to scale times its own S (`own`).

    A cosine cannot reach a scale above 1: that term pulls pairs together with a slope that never ends. The published loss
    also rebuilds the features from binary codes without passing a gradient to the codes: left out here.
    Source: DSAH (ICMR 2020), in the form of its program.
    """
    cross = cosine_matrix(image_codes, text_codes)
    of_own = _within(image_codes, text_codes, scale * s_image, scale * s_text, own)
    terms = {
        "cross": squared_error(cross, affinity),
        "pairs": jnp.mean((cosine(image_codes, text_codes) - scale) ** 2),
        "symmetry": symmetry * jnp.mean((cross - cross.T) ** 2),
        **_within(image_codes, text_codes, affinity, affinity, 1.0),
        "own_image": of_own["image"],
        "own_text": of_own["text"],
    }
    return _sum(terms), terms


def ucch_loss(
    image_codes: Float[Array, "batch bits"],
    text_codes: Float[Array, "batch bits"],
    *,
    alpha: float = 0.9,
    temperature: float = 0.9,
    margin: float = 0.2,
    shift: float = 1.0,
) -> tuple[Float[Array, ""], Terms]:
    """alpha times an instance contrast, and 1 - alpha times a cross-modal ranking. On rows scaled to length 1.

    contrast: the anchors are the binary codes sign(image + text) of the pairs, constants. Each picture, and each text,
      chooses the anchor of its own pair by <anchor, row> / (temperature sqrt(bits)): cross entropy, mean over the batch, the
      sum of both modalities.
    ranking: each picture chooses its text by their cosines, and each text its picture: cross entropy plus `margin`,
      mean, the sum of both ways. Negatives that are worse than the positive by more than `margin` are lowered by
      `shift`, so that the hard ones count.

    This is the form of the paper's first (warm-up) epoch. Afterwards its program draws 4,096 negatives from a memory bank of the
    moving averages of all training pairs, and the positive anchor from there too; here anchors are always those of the
    batch. Source: UCCH (Hu, Zhu, Lin, Peng, Zhao and Peng, TPAMI 2023), in the form of its program
    (github.com/penghu-cs/UCCH).
    """
    image, text = unit_rows(image_codes), unit_rows(text_codes)
    anchors = jax.lax.stop_gradient(straight_through_sign(image + text))
    heat = temperature * anchors.shape[1] ** 0.5
    to_image, to_text = (_own_partner(inner_products(rows, anchors) / heat, 1) for rows in (image, text))
    scores = inner_products(image, text)
    positive = jnp.diagonal(scores)
    of_images, of_texts = (
        _own_partner(jnp.where(scores >= own - margin, scores, scores - shift), axis)
        for own, axis in ((positive[:, None], 1), (positive[None], 0))
    )
    terms = {
        "contrast": alpha * (to_image + to_text),
        "ranking": (1 - alpha) * (of_images + of_texts + 2 * margin),
    }
    return _sum(terms), terms


def kdcmh_teacher_loss(
    image_codes: Float[Array, "batch bits"],
    text_codes: Float[Array, "batch bits"],
    affinity: Float[Array, "batch batch"],
    *,
    intra: float = 0.1,
) -> tuple[Float[Array, ""], Terms]:
    """mean((cos(I, T) - S)^2), minus the mean cosine of pairs, and `intra` times the squared error within each modality.

    Source: our reconstruction (of KDCMH, Li and Wang, ICMR 2021, after JDSH).
    """
    terms = {
        "cross": squared_error(cosine_matrix(image_codes, text_codes), affinity),
        "pairs": -jnp.mean(cosine(image_codes, text_codes)),
        **_within(image_codes, text_codes, affinity, affinity, intra),
    }
    return _sum(terms), terms


def similarity_likelihood(
    a: Float[Array, "rows bits"],
    b: Float[Array, "columns bits"],
    similarity: Float[Array, "rows columns"],
    *,
    scale: float | None = None,
) -> Float[Array, ""]:
    """mean over pairs of log(1 + e^theta) - S theta, theta = scale <a_i, b_j> / bits, for S in [0, 1].

    Least where sigmoid(theta) = S. `scale` None is DCMH's bits / 2, which is made for S of 0 and 1: for values between, codes
    would have to be near 0. With a scale of 4, (1 + cosine) / 2 and sigmoid(4 cosine) nearly agree. Source: DCMH (Jiang and
    Li, CVPR 2017, arXiv 1602.02255), equation 1, with a mean in place of its sum and with S that need not be 0 or 1.
    """
    similarity = jax.lax.stop_gradient(similarity)
    bits = a.shape[1]
    theta = (bits / 2 if scale is None else scale) * inner_products(a, b) / bits
    # S of -log p and 1 - S of -log(1 - p): the same, without a difference of large numbers
    return jnp.mean(similarity * jax.nn.softplus(-theta) + (1 - similarity) * jax.nn.softplus(theta))


def kdcmh_student_loss(
    image_codes: Float[Array, "batch bits"],
    text_codes: Float[Array, "batch bits"],
    similarity: Float[Array, "batch batch"],
    *,
    quantization_weight: float = 0.1,
    balance_weight: float = 0.1,
    shared_codes: bool = False,
    scale: float | None = None,
    intra: float = 0.0,
) -> tuple[Float[Array, ""], Terms]:
    """`similarity_likelihood` of pictures with texts, and weighted quantisation and balance of both modalities' codes. `intra`
    weighs the likelihood within pictures and within texts, which DCMH does without.

    quantization: mean((b - u)^2), b = sign(u); with `shared_codes` b = sign(u_image + u_text) for both, as in DCMH.
    balance: the mean over bits of (mean over the batch of u)^2.
    All terms are means over pairs, items or bits, so that weights mean the same for every batch size and count of bits.
    Source: our reconstruction (of KDCMH, ICMR 2021, after DCMH, CVPR 2017, equation 1).
    """
    both = (image_codes, text_codes)
    if shared_codes:
        codes = straight_through_sign(image_codes + text_codes)
        distances = [squared_error(u, codes) for u in both]
    else:
        distances = [quantization(u) for u in both]
    likelihood = partial(similarity_likelihood, similarity=similarity, scale=scale)
    across = likelihood(image_codes, text_codes)
    # XLA would work out what is then multiplied by 0
    zero = jnp.zeros_like(across)
    within = sum((likelihood(u, u) for u in both), zero) if intra else zero
    terms = {
        "likelihood": across,
        "within": intra * within,
        "quantization": quantization_weight * (distances[0] + distances[1]),
        "balance": balance_weight * (balance(image_codes) + balance(text_codes)),
    }
    return _sum(terms), terms


def distilled_similarity(
    codes_a: Float[Array, "rows bits"],
    codes_b: Float[Array, "columns bits"],
    *,
    threshold: Scalar | None = None,
) -> Float[Array, "rows columns"]:
    """(1 + cosine) / 2 of a teacher's codes of -1 and +1: the share of equal bits. With a threshold, 1 where that reaches it,
    else 0.

    Source: with a threshold, UKD (Hu, Xie, Hong and Tian, CVPR 2020, arXiv 2004.00280), whose similarity is that of
    real-valued features; without, our reconstruction of KDCMH.
    """
    bits = codes_a.shape[1]
    shares = jax.lax.stop_gradient(0.5 + inner_products(codes_a, codes_b) / (2 * bits))
    if threshold is None:
        return shares
    # shares are multiples of 1 / bits: the allowance is for the rounding of the threshold only
    return (shares >= threshold - 1e-6).astype(shares.dtype)


def _within(image_codes: Array, text_codes: Array, s_image: Array, s_text: Array, weight: float) -> Terms:
    return {
        "image": weight * squared_error(cosine_matrix(image_codes, image_codes), s_image),
        "text": weight * squared_error(cosine_matrix(text_codes, text_codes), s_text),
    }


def _own_partner(scores: Array, axis: int) -> Float[Array, ""]:
    """Cross entropy of the diagonal among the entries along an axis, mean over the batch."""
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(scores, axis=axis)))


def _sum(terms: Terms) -> Float[Array, ""]:
    return jnp.sum(jnp.stack(list(terms.values())))
