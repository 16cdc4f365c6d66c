"""Stage `evaluate` of a KDCMH run: both directions of search, over all seeds, and what is found, to look at."""

import time
from typing import Any

import jax
import numpy as np

from kdhash.experiment.context import Run
from kdhash.experiment.evaluate import (
    frozen_multiply_adds,
    milliseconds_an_image,
    over_seeds,
    parameter_count,
)
from kdhash.experiment.kdcmh import PairHashed
from kdhash.experiment.pair_inputs import PairInputs
from kdhash.methods.cca import fit_cca_itq
from kdhash.retrieval import evaluate, instance_recall, pack_codes, search

DIRECTIONS = {"i2t": ("image", "text"), "t2i": ("text", "image")}
RECALLS = (1, 5, 10)
SHOWN_QUERIES, SHOWN_IMAGES, SHOWN_TEXTS = 8, 8, 5


def score_pairs(
    run: Run, hashers: dict[str, list[PairHashed]], inputs: dict[str, PairInputs]
) -> list[dict[str, Any]]:
    """A row for each hasher, in the order given: mean and deviation over its seeds. Then CCA-ITQ, fitted."""
    costs = {name: _milliseconds(run, one) for name, one in inputs.items()}
    frozen_cost = {
        name: frozen_multiply_adds(one.network) if one.network else 0 for name, one in inputs.items()
    }
    rows = []
    for name, trained in hashers.items():
        kind = "teacher" if name == "teacher" else "student"
        scores = []
        for one in trained:
            codes = {"image": one.image, "text": one.text}
            scores.append(_scores(run, codes, one.captions) | {"validation": one.trained.validation})
        network, variables = inputs[kind].network, trained[0].trained.variables
        # a tower is of dense layers alone, each of whose weights multiplies once
        tower = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]["image"]) if leaf.ndim == 2)
        rows.append(
            {
                "group": kind,
                "name": name,
                "seeds": [one.seed for one in trained],
                **over_seeds(scores),
                **costs[kind],
                "parameters": parameter_count(variables) + (network.parameters if network else 0),
                "multiply_adds": tower + frozen_cost[kind],
                "seconds": float(np.mean([one.trained.seconds for one in trained])),
            }
        )
        _say(run, rows[-1])
    return rows + [row for name, one in inputs.items() for row in _fitted(run, name, one)]


def _fitted(run: Run, name: str, inputs: PairInputs) -> list[dict[str, Any]]:
    """CCA-ITQ on the training pairs, where the features are wide enough for the bits."""
    train = run.protocol.train
    most = min(inputs.image.shape[1], inputs.text.shape[1], len(train) - 1)
    if run.config.bits > most:
        run.say(
            f"CCA-ITQ, {name}'s features: left out, they have {most} directions for {run.config.bits} bits"
        )
        return []
    start = time.perf_counter()
    fitted = fit_cca_itq(inputs.image[train], inputs.text[train], run.config.bits, seed=run.config.seed)
    seconds = time.perf_counter() - start
    codes = {
        kind: pack_codes(getattr(fitted, kind).encode(getattr(inputs, kind))) for kind in ("image", "text")
    }

    def captions(texts: list[str]) -> np.ndarray:
        return pack_codes(fitted.text.encode(inputs.captions(texts)))

    row = {
        "group": "fitted",
        "name": f"CCA-ITQ, {name}'s features",
        "metrics": _scores(run, codes, captions),
        "seconds": seconds,
    }
    _say(run, row)
    return [row]


def _scores(run: Run, codes: dict[str, np.ndarray], captions) -> dict[str, float]:
    """mAP@k both ways among labelled queries; recall@k both ways among the query pairs, each caption alone."""
    query, database, labels = run.protocol.query, run.protocol.database, run.dataset.labels
    found: dict[str, float] = {}
    if labels is not None:
        labelled = query[labels[query].any(axis=1)]
        for direction, (a, b) in DIRECTIONS.items():
            values = evaluate(
                codes[a][labelled],
                codes[b][database],
                labels[labelled],
                labels[database],
                ks=tuple(run.config.evaluate.ks),
            )
            found |= {
                f"{direction} {key}": value for key, value in values.items() if isinstance(value, float)
            }
    own = np.arange(len(query))
    texts, text_owner = codes["text"][query], own
    if run.dataset.texts is not None:
        each = [run.dataset.texts[row] for row in query]
        texts = captions([text for one in each for text in one])
        text_owner = np.repeat(own, [len(one) for one in each])
    pictures = codes["image"][query]
    recalls = {
        "i2t": instance_recall(pictures, texts, own, text_owner, RECALLS),
        "t2i": instance_recall(texts, pictures, text_owner, own, RECALLS),
    }
    return found | {
        f"{direction} {key}": value for direction, values in recalls.items() for key, value in values.items()
    }


def _milliseconds(run: Run, inputs: PairInputs) -> dict[str, float]:
    """Of one picture through the frozen network, and of one text to features; a hash head takes next to no time."""
    found = {}
    if inputs.network:
        apply = jax.jit(inputs.network.apply)
        found["encode_ms"] = milliseconds_an_image(run, apply, inputs.network.variables)
    if inputs.encoder:
        texts = [run.dataset.texts[row][0] for row in run.protocol.query[:1000]]
        start = time.perf_counter()
        inputs.captions(texts)
        found["text_ms"] = 1000 * (time.perf_counter() - start) / len(texts)
    return found


def _say(run: Run, row: dict[str, Any]) -> None:
    metrics = row["metrics"]
    names = [f"{direction} {key}" for direction in DIRECTIONS for key in ("map@50", "map@all", "recall@10")]
    told = ", ".join(f"{name} {metrics[name]:.4f}" for name in names if name in metrics)
    run.say(f"evaluate {row['name']}: {told}")


def shown(run: Run, hashed: PairHashed) -> dict[str, Any]:
    """What the first captions of query pairs (drawn by the seed, not picked) find among database pictures and the queries' own,
    and their pictures among the captions of all those pairs: 'text_to_image' and 'image_to_text' of `report.pairs`."""
    dataset, protocol = run.dataset, run.protocol
    drawn = np.random.default_rng(run.config.seed).permutation(protocol.query)[:SHOWN_QUERIES]
    everything = np.concatenate([protocol.query, protocol.database])
    first = [dataset.texts[row][0] for row in drawn]
    distances, places = search(hashed.captions(first), hashed.image[everything], SHOWN_IMAGES)
    rows = everything[places]
    pictures = dataset.images[rows.ravel()].reshape(*rows.shape, *dataset.images.image_shape)
    text_to_image = {
        "texts": first,
        "pictures": pictures,
        "marks": _marks(run, drawn, rows),
        "distances": np.asarray(distances),
    }
    owner = np.repeat(everything, [len(dataset.texts[row]) for row in everything])
    captions = [text for row in everything for text in dataset.texts[row]]
    distances, places = search(hashed.image[drawn], hashed.captions(captions), SHOWN_TEXTS)
    image_to_text = {
        "pictures": dataset.images[drawn],
        "texts": [[captions[place] for place in line] for line in places],
        "marks": _marks(run, drawn, owner[places]),
        "distances": np.asarray(distances),
    }
    return {"text_to_image": text_to_image, "image_to_text": image_to_text}


def _marks(run: Run, queries: np.ndarray, rows: np.ndarray) -> list[list[str]]:
    """Of each result: the query's 'own', 'right' (a label in common) or 'wrong'; 'other' where there are no labels."""
    labels = run.dataset.labels

    def mark(query: int, row: int) -> str:
        if query == row:
            return "own"
        if labels is None:
            return "other"
        return "right" if (labels[query] & labels[row]).any() else "wrong"

    return [[mark(query, row) for row in line] for query, line in zip(queries, rows, strict=True)]
