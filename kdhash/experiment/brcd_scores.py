"""Stage `evaluate` of a BRCD run: symmetric and asymmetric scores of all seeds, what a picture costs, and the study of masks."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdhash.experiment.brcd import Hashed, Taught, cluster_masks
from kdhash.experiment.context import Run
from kdhash.experiment.evaluate import (
    frozen_multiply_adds,
    milliseconds_an_image,
    over_seeds,
    parameter_count,
)
from kdhash.experiment.hasher_inputs import Inputs
from kdhash.methods.fitted import fit_itq, fit_lsh, fit_pca
from kdhash.methods.spectral import fit_spectral
from kdhash.models.cost import multiply_adds
from kdhash.retrieval import evaluate, float_map, pack_codes

MARGINS = np.round(np.arange(0, 1, 0.05), 2)


def score_hashers(
    run: Run, hashers: dict[str, list[Hashed]], inputs: dict[str, Inputs]
) -> list[dict[str, Any]]:
    """A row for each hasher, in the order given: mean and deviation over its seeds.

    Symmetric: its codes on both sides. Asymmetric: its codes search those of the teacher of the same seed.
    """
    frozen_ms = {
        name: milliseconds_an_image(run, jax.jit(one.frozen.apply), one.frozen.variables)
        for name, one in inputs.items()
        if one.frozen
    }
    frozen_cost = {name: frozen_multiply_adds(one.frozen) for name, one in inputs.items() if one.frozen}
    rows = []
    for name, trained in hashers.items():
        kind = "teacher" if name == "teacher" else "student"
        scores: list[dict[str, float]] = []
        for one, teacher in zip(trained, hashers["teacher"], strict=True):
            symmetric = _scores(run, one.packed, one.packed, "")
            asymmetric = {} if one is teacher else _scores(run, one.packed, teacher.packed, "asymmetric ")
            scores.append(symmetric | asymmetric | {"validation": one.trained.validation})
        # a head on a frozen network's features takes next to no time
        variables, frozen = trained[0].trained.variables, inputs[kind].frozen
        encode_ms = frozen_ms.get(kind) or milliseconds_an_image(
            run, jax.jit(trained[0].method.encode), variables
        )
        inputs_of_one = jax.eval_shape(jnp.asarray, inputs[kind].original(np.arange(1)))
        head_cost = multiply_adds(trained[0].method.encode, variables, inputs_of_one)
        rows.append(
            {
                "group": kind,
                "name": name,
                "seeds": [one.seed for one in trained],
                **over_seeds(scores),
                "encode_ms": encode_ms,
                "parameters": parameter_count(variables) + (frozen.parameters if frozen else 0),
                "multiply_adds": head_cost + frozen_cost.get(kind, 0),
                "seconds": float(np.mean([one.trained.seconds for one in trained])),
            }
        )
        run.say(f"evaluate {name}: mAP@1000 {np.mean([score['map@1000'] for score in scores]):.4f}")
    return rows


def score_features(run: Run, inputs: dict[str, Inputs]) -> list[dict[str, Any]]:
    """Exact cosine search on frozen networks' features, and hashers that are fitted to them, not trained."""
    query, database, labels = run.protocol.query, run.protocol.database, run.dataset.labels
    rows: list[dict[str, Any]] = []
    for kind in [kind for kind in inputs if inputs[kind].frozen]:
        values = inputs[kind].original(np.arange(len(run.dataset)))
        train = values[run.protocol.train]
        scores = float_map(
            values[query], values[database], labels[query], labels[database], tuple(run.config.evaluate.ks)
        )
        rows.append({"group": "float", "name": f"cosine, {kind}'s features", "metrics": scores})
        fits: dict[str, Callable] = {
            "LSH": lambda x, bits: fit_lsh(x, bits, seed=run.config.seed),
            "PCA": fit_pca,
            "ITQ": lambda x, bits: fit_itq(x, bits, seed=run.config.seed),
            "spectral": fit_spectral,
        }
        for name, fit in fits.items():
            start = time.perf_counter()
            packed = pack_codes(fit(train, run.config.bits).encode(values))
            row: dict[str, Any] = {
                "group": "fitted",
                "name": f"{name}, {kind}'s features",
                "seconds": time.perf_counter() - start,
            }
            row["metrics"] = _scores(run, packed, packed, "")
            rows.append(row)
            run.say(f"evaluate {row['name']}: mAP@1000 {row['metrics']['map@1000']:.4f}")
    return rows


def mask_study(taught: Taught) -> dict[str, Any]:
    """The share of bits that each cluster keeps against the margin of the intended rule: 'margins' [m], 'kept' [m, clusters]."""
    kept = [cluster_masks(taught, "intended", float(margin)).mean(axis=1) for margin in MARGINS]  # type: ignore[union-attr]
    return {"margins": MARGINS, "kept": np.stack([np.asarray(one) for one in kept])}


def _scores(run: Run, query_codes: np.ndarray, database_codes: np.ndarray, prefix: str) -> dict[str, float]:
    query, database, labels = run.protocol.query, run.protocol.database, run.dataset.labels
    found = evaluate(
        query_codes[query],
        database_codes[database],
        labels[query],
        labels[database],
        ks=tuple(run.config.evaluate.ks),
    )
    return {prefix + key: value for key, value in found.items() if isinstance(value, float)}
