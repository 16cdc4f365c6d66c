"""What the hash heads are given."""

from types import SimpleNamespace

import numpy as np

from kdhash.experiment.teacher import Cached, best_single, head_tokens

RNG = np.random.default_rng(0)


def cached() -> Cached:
    views = {view: {"features": RNG.normal(3, 2, size=(20, 4))} for view in ("original", "flip")}
    seen = views["original"]["features"]
    return Cached(views, seen.mean(axis=0), seen.std(axis=0))


FEATURES = {"a": cached(), "b": cached()}


def test_one_token_for_every_teacher_and_view_in_that_order():
    tokens = head_tokens(FEATURES, ("a", "b"), ("original", "flip"), np.arange(20))
    assert list(tokens) == ["a", "b", "a_view2", "b_view2"]
    np.testing.assert_allclose(tokens["b"].mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(tokens["b"].std(axis=0), 1, atol=1e-9)
    back = tokens["b_view2"] * FEATURES["b"].std + FEATURES["b"].mean
    np.testing.assert_allclose(back, FEATURES["b"].views["flip"]["features"])


def test_the_best_single_teacher_is_one_that_sees_one_view():
    def head(name, members, validation):
        return SimpleNamespace(name=name, members=members, trained=SimpleNamespace(validation=validation))

    heads = {
        head.name: head
        for head in (
            head("a", ("a",), 0.7),
            head("b", ("b",), 0.8),
            head("b_mirrored", ("b",), 0.9),
            head("mean", ("a", "b"), 0.95),
        )
    }
    assert best_single(heads).name == "b"
    assert best_single({"mean": heads["mean"]}) is None
