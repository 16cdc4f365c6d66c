"""Whether what was exported is the trained network, bit for bit, on pictures and texts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

# How far from zero, measured by the largest logit of the same code, a logit may be whose bit turns when sums are taken in
# another order; by what the network computes in.
EDGE = {"float32": 1e-5, "bfloat16": 2e-2}
RANDOM, OWN = 32, 64  # of pictures of each kind
PLAIN_WORDS = ["a", "the", "two", "dog", "house", "runs", "red", "water", "woman", "old", "street", "plays"]


def compare(
    name: str,
    logits: Float[np.ndarray, "n bits"],
    codes: UInt8[np.ndarray, "n bytes"],
    dtype: str = "float32",
) -> dict[str, Any]:
    """Codes that `name` gave against the trained network's logits; the finding, for model.json.

    A bit may differ where |logit| <= EDGE[dtype] * the largest |logit| of the same code. Raises ValueError for any other
    difference.
    """
    scale = np.abs(logits).max(axis=1, keepdims=True)
    edge = np.abs(logits) <= EDGE[dtype] * scale
    differing = np.unpackbits(codes, axis=1).astype(bool) != (logits >= 0)
    wrong = differing & ~edge
    if wrong.any():
        furthest = (np.abs(logits) / scale)[wrong].max()
        raise ValueError(
            f"{name} is not the trained network: {wrong.sum()} of {wrong.size} bits differ, up to a logit of {furthest:.1e} "
            "of the code's largest; nothing was written"
        )
    return {
        "checked": name,
        "codes": len(codes),
        "bits": int(differing.size),
        "near_zero": int(edge.sum()),
        "turned": int(differing.sum()),
    }


def random_pictures(size: int) -> UInt8[np.ndarray, "n size size 3"]:
    """Noise, and coarse patches of flat colour, whose codes differ more; always the same."""
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (RANDOM, size, size, 3), dtype=np.uint8)
    coarse = draw.integers(0, 256, (RANDOM, 3, 3, 3), dtype=np.uint8)
    index = np.arange(size) * 3 // size
    return np.concatenate([noise, coarse[:, index][:, :, index]])


def random_texts(texts: Mapping[str, Path]) -> list[str]:
    """Texts of words that the model knows, one that it does not know, and an empty one."""
    about = (
        json.loads(texts["text_features.json"].read_text("utf-8")) if "text_features.json" in texts else {}
    )
    words = [*(about.get("vocabulary") or ()), *(about.get("vector_words") or ())] or PLAIN_WORDS
    draw = np.random.default_rng(0)
    drawn = [" ".join(draw.choice(words, draw.integers(1, 12))) for _ in range(2 * RANDOM)]
    return [*drawn, "qwertzuiop", ""]


def own_examples(
    facts: Mapping[str, Any], size: int, data_dir: str | Path | None
) -> tuple[UInt8[np.ndarray, "n size size 3"] | None, list[str]]:
    """Pictures, and texts where it has some, from all over the data set that the model was trained on; (None, []) where nothing
    says where that lies. Raises as `load_dataset` and `load_pairs` do."""
    from kdhash.data import load_dataset, load_pairs

    name = facts["dataset"]
    if facts["method"] == "kdcmh" and data_dir is not None:
        pairs = load_pairs(name, data_dir, image_size=size)
        assert pairs.images is not None  # there was something to train a picture hasher on
        rows = _spread(len(pairs))
        texts = [pairs.texts[row][0] for row in rows] if pairs.texts is not None else []
        return pairs.images[rows], texts
    if data_dir is None and name != "digits":
        return None, []
    dataset = load_dataset(name, data_dir, image_size=size, in_memory=False)
    return dataset.images[_spread(len(dataset))], []


def _spread(rows: int) -> np.ndarray:
    return np.unique(np.linspace(0, rows - 1, OWN).astype(np.int64))
