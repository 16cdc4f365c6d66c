"""What a report says of the paper's claims, by the rules of docs/results.md."""

from types import SimpleNamespace

import pytest
from ml_collections import ConfigDict

from kdhash.experiment.run import _claims

RUN = SimpleNamespace(config=ConfigDict({"student": {"teacher": "attention"}}))


def row(name, score, networks=1, views=1, **more):
    costs = {"encode_ms": 0.1, "parameters": 5, "multiply_adds": 7}
    return {"name": name, "metrics": {"map@all": score}, "networks": networks, "views": views} | costs | more


def claims(*rows):
    return {claim["claim"].split(" (")[0]: claim for claim in _claims(RUN, list(rows), {})}


@pytest.mark.parametrize(("fused", "holds"), [(0.93, True), (0.92, False)])
def test_the_fused_teacher_is_held_to_the_single_one_that_is_best_on_the_queries(fused, holds):
    rows = [row("a", 0.905), row("b", 0.8), row("a_mirrored", 0.99, views=2), row("attention", fused, 2, 2)]
    (claim,) = claims(*rows).values()
    assert claim["holds"] is holds
    assert f"attention {fused:.4f}, a 0.9050: {100 * (fused - 0.905):+.2f} points" == claim["measured"]


@pytest.mark.parametrize(
    ("more", "holds"), [({}, True), ({"encode_ms": 9.0}, True), ({"parameters": 6}, False)]
)
def test_encoding_costs_the_same_where_the_network_is_the_same(more, holds):
    student = row("student, taught by attention", 0.7, networks=None, views=None, **more)
    found = claims(row("student, no transfer", 0.6, networks=None, views=None), student)
    assert found["Transfer costs nothing when encoding"]["holds"] is holds
    assert found["Transfer improves the student by more than 4 points"]["holds"]
