"""Every value of the oracle file metrics.npz, to 1e-10."""

import numpy as np
import pytest

from kdhash.retrieval import (
    average_precision,
    count_by_distance,
    evaluate,
    mean_average_precision,
    ndcg_at_k,
    pack_codes,
    precision_at_k,
    precision_at_many_k,
    precision_within_radius,
    radius_curve,
    recall_at_k,
)
from kdhash.retrieval.labels import check_labels, shared_labels
from kdhash.retrieval.nearest import search
from kdhash.retrieval.ranking import ranked_hit_count, ranked_hits

CASES = ("c0", "c1", "c2", "c3")
SINGLE_LABEL = ("c0", "c3")
DENOMINATORS = {"hits": "hits_in_k", "min": "min_R_k", "all": "R"}


def close(got, reference):
    np.testing.assert_allclose(got, reference, rtol=0, atol=1e-10)


@pytest.fixture(params=[*((case, False) for case in CASES), *((case, True) for case in SINGLE_LABEL)])
def case(request, oracle, backend):
    """(oracle values of one case, the arguments of a metric), with class indices where the second is true."""
    name, as_indices = request.param
    values = {
        key.removeprefix(f"{name}."): value
        for key, value in oracle("metrics").items()
        if key.startswith(f"{name}.")
    }
    labels = values["query_labels"], values["db_labels"]
    if as_indices:
        labels = tuple(side.argmax(axis=1) for side in labels)
    return values, (pack_codes(values["query_codes"]), pack_codes(values["db_codes"]), *labels)


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("ties", ["expected", "stable", "relevant_first", "relevant_last"])
def test_average_precision(case, ties, denominator):
    values, arguments = case
    key = DENOMINATORS[denominator]
    for column, k in enumerate(values["ks"]):
        got = average_precision(*arguments, int(k), ties=ties, denominator=denominator)
        close(got, values[f"ap_{ties}.{key}"][:, column])
        if f"map_{ties}.{key}" in values:
            mean = mean_average_precision(*arguments, int(k), ties=ties, denominator=denominator)
            close(mean, values[f"map_{ties}.{key}"][column])


@pytest.mark.parametrize("ties", ["expected", "stable"])
def test_precision_recall_and_ndcg(case, ties):
    values, arguments = case
    prefix = "expected_" if ties == "expected" else ""
    metrics = {"precision_at_k": precision_at_k, "recall_at_k": recall_at_k, "ndcg_at_k": ndcg_at_k}
    for name, metric in metrics.items():
        for column, k in enumerate(values["ks"]):
            close(metric(*arguments, int(k), ties=ties), values[prefix + name][:, column])


def test_radius_curve(case):
    values, arguments = case
    curve = radius_curve(*arguments)
    np.testing.assert_array_equal(curve.retrieved, values["radius.retrieved"])
    np.testing.assert_array_equal(curve.hits, values["radius.hits"])
    for name in curve._fields[2:]:
        close(getattr(curve, name), values[f"radius.{name}"])
    per_query = precision_within_radius(*arguments, 2)
    close(per_query, values["precision_radius2"])
    close(per_query.mean(), values["precision_radius2_mean"])


def test_counts(case):
    values, arguments = case
    counts = count_by_distance(*arguments)
    np.testing.assert_array_equal(counts.hits.sum(axis=1), values["num_relevant"])
    np.testing.assert_array_equal(counts.by_shared[:, 1:].sum(axis=1), values["num_relevant"])
    shared = arguments[2] @ arguments[3].T if arguments[2].ndim == 2 else None
    if shared is not None:
        close(counts.gains.sum(axis=1), (2.0**shared - 1).sum(axis=1))


def test_published_programs(case):
    """What DeepHash's and DJSRH's own functions returned on these inputs, by our names for it."""
    values, arguments = case
    items = len(arguments[1])
    for column, k in enumerate(values["ks"]):
        close(
            mean_average_precision(*arguments, int(k), ties="stable"),
            values["published.deephash_calctopmap"][column],
        )
    # its topk = -1 drops the last-ranked item
    close(
        mean_average_precision(*arguments, items - 1, ties="stable"),
        values["published.deephash_calctopmap_minus1"],
    )
    close(
        mean_average_precision(*arguments, ties="stable", denominator="all"),
        values["published.djsrh_calculate_map"],
    )


def test_published_curve_over_cut_offs(case):
    values, (query, database, *labels) = case
    pair = check_labels(*labels, len(query), len(database))
    _, positions = search(query, database, len(database))
    hits = ranked_hits(shared_labels(pair, slice(None), positions))
    relevant = values["num_relevant"]
    found = np.stack([ranked_hit_count(hits, k) for k in range(1, len(database) + 1)], axis=1)[relevant > 0]
    close((found / np.arange(1, len(database) + 1)).mean(axis=0), values["published.deephash_pr_precision"])
    # that program divides two float32 numbers for the recall, and averages in float64
    recall = found.astype(np.float32) / relevant[relevant > 0, None].astype(np.float32)
    close(recall.mean(axis=0, dtype=np.float64), values["published.deephash_pr_recall"])


def test_precision_at_many_k(case):
    values, arguments = case
    close(
        precision_at_many_k(*arguments, [*values["ks"], 0]),
        [*values["expected_precision_at_k"].mean(axis=0), values["expected_precision_at_k"][:, -1].mean()],
    )


def test_evaluate(case):
    values, arguments = case
    got = evaluate(*arguments, ks=(10, 50, 100, 0), curve_ks=(10, 100, 10**6))
    for column, name in enumerate(("10", "50", "100", "all")):
        close(got[f"map@{name}"], values["map_expected.hits_in_k"][column])
        close(got[f"map@{name}_stable"], values["map_stable.hits_in_k"][column])
        for metric in ("precision", "recall", "ndcg"):
            close(got[f"{metric}@{name}"], values[f"expected_{metric}_at_k"][:, column].mean())
            close(got[f"{metric}@{name}_stable"], values[f"{metric}_at_k"][:, column].mean())
        if name != "all":
            close(got[f"map@{name}_min"], values["map_expected.min_R_k"][column])
            close(got[f"map@{name}_all"], values["map_expected.R"][column])
    close(got["precision_radius2"], values["precision_radius2_mean"])
    for name in ("precision_macro", "precision_macro_nonempty", "precision_micro", "recall_macro"):
        close(got[f"curve_{name}"], values[f"radius.{name}"])
    close(got["curve_recall_micro"], values["radius.recall_micro"])
    np.testing.assert_array_equal(got["curve_radius"], np.arange(arguments[0].shape[1] * 8 + 1))
    np.testing.assert_array_equal(got["curve_k"], [10, 100])
    close(got["curve_precision_at_k"], values["expected_precision_at_k"][:, [0, 2]].mean(axis=0))
    for name, value in got.items():
        assert isinstance(value, np.ndarray if name.startswith("curve_") else float)
        assert name.startswith("curve_") or 0 <= value <= 1
    without = evaluate(*arguments, ks=(10, 50, 100, 0), curve_ks=(10,), stable=False)
    assert set(got) - set(without) == {name for name in got if name.endswith("_stable")}
