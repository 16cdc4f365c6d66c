"""The feature cache: resumable, verified, never half."""

import numpy as np
import pytest

from kdhash.teachers import cache


def counted(calls):
    def compute(first, last):
        calls.append((first, last))
        return {"features": np.arange(first, last, dtype=np.float32)[:, None]}

    return compute


IDENTITY = {"teacher": "t", "view": "original"}


def test_every_row_once_and_in_order(tmp_path):
    assert list(cache.fill(tmp_path, IDENTITY, 10, 4, counted([]))) == [4, 8, 10]
    np.testing.assert_array_equal(cache.read(tmp_path)["features"][:, 0], np.arange(10))
    assert cache.is_complete(tmp_path, IDENTITY)
    assert not cache.is_complete(tmp_path, IDENTITY | {"view": "flip"})


def test_a_killed_run_goes_on_with_the_first_missing_shard(tmp_path):
    fill = cache.fill(tmp_path, IDENTITY, 10, 4, counted([]))
    next(fill)
    fill.close()
    assert not cache.is_complete(tmp_path, IDENTITY)
    with pytest.raises(FileNotFoundError, match="not a finished"):
        cache.read(tmp_path)
    (tmp_path / "00001.npz").write_bytes(b"half")  # what a machine that lost power may leave
    calls: list = []
    list(cache.fill(tmp_path, IDENTITY, 10, 4, counted(calls)))
    assert calls == [(4, 8), (8, 10)]
    np.testing.assert_array_equal(cache.read(tmp_path)["features"][:, 0], np.arange(10))


def test_a_changed_shard_is_refused_by_name(tmp_path):
    list(cache.fill(tmp_path, IDENTITY, 10, 4, counted([])))
    np.savez(tmp_path / "00001.npz", features=np.zeros((4, 1), np.float32))
    with pytest.raises(ValueError, match=r"00001\.npz"):
        cache.read(tmp_path)


def test_a_folder_of_other_features_is_refused(tmp_path):
    list(cache.fill(tmp_path, IDENTITY, 10, 4, counted([])))
    with pytest.raises(ValueError, match="other features"):
        list(cache.fill(tmp_path, IDENTITY | {"teacher": "u"}, 10, 4, counted([])))


def test_key_depends_on_every_part():
    assert cache.cache_key(a=1, b="x") == cache.cache_key(b="x", a=1)
    assert cache.cache_key(a=1, b="x") != cache.cache_key(a=1, b="y")
    assert cache.cache_key(a=1) != cache.cache_key(a="1")
