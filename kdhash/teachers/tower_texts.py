"""Features of texts from a frozen text tower, such as CLIP's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from kdhash.teachers.registry import load_text_teacher
from kdhash.teachers.sources import find_source
from kdhash.teachers.tokenizer import load_tokenizer

BATCH = 64


class TowerTexts:
    """Texts to features of length 1. `identity` changes with the weights.

    The tower is {'weights': ...}, a Hugging Face folder (in `weights_dir`) or hf://owner/name, with the tokenizer beside the
    weights; needs the extra 'text'. Raises as `load_text_teacher` and `load_tokenizer` do.
    """

    def __init__(self, name: str, spec: Mapping[str, Any], *, weights_dir: str | Path = ""):
        self.tower = load_text_teacher(name, spec, weights_dir=weights_dir, field=f"config.texts.{name}")
        weights = spec["weights"]
        folder = weights if weights.startswith("hf://") else find_source(weights, weights_dir).path
        self.tokenize = load_tokenizer(folder, length=self.tower.length)
        self.identity = self.tower.identity
        self.apply = jax.jit(self.tower.apply)

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n width"]:
        """In batches of 64, the last one filled up."""
        parts = [np.zeros((0, self.tower.width), np.float32)]
        for start in range(0, len(texts), BATCH):
            chunk = list(texts[start : start + BATCH])
            ids = self.tokenize(chunk + [""] * (BATCH - len(chunk)))
            found = np.asarray(self.apply(self.tower.variables, ids)["features"])[: len(chunk)]
            parts.append(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))
        return np.concatenate(parts)
