"""The feature cache: resumable, verified, never half."""

import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from kdhash.teachers import cache

IDENTITY = {"teacher": "t", "view": "original"}


def begin(folder, rows=10, shard_rows=4, identity=IDENTITY, **process):
    return cache.plan(folder, identity, rows, shard_rows, **process)


def write(plan, spans=None):
    for first, last in plan.missing if spans is None else spans:
        cache.write_shard(
            plan, (first, last), {"features": np.arange(first, last, dtype=np.float32)[:, None]}
        )


def fill(folder, **how):
    plan = begin(folder, **how)
    write(plan)
    cache.finish(plan)


def test_every_row_once_and_in_order(tmp_path):
    plan = begin(tmp_path)
    assert plan.missing == [(0, 4), (4, 8), (8, 10)]
    assert plan.total == 10
    write(plan)
    assert not cache.is_complete(tmp_path, IDENTITY)
    cache.finish(plan)
    np.testing.assert_array_equal(cache.read(tmp_path)["features"][:, 0], np.arange(10))
    assert cache.is_complete(tmp_path, IDENTITY)
    assert not cache.is_complete(tmp_path, IDENTITY | {"view": "flip"})


def test_a_killed_run_goes_on_with_the_missing_shards(tmp_path):
    write(begin(tmp_path), [(0, 4)])
    with pytest.raises(FileNotFoundError, match="not a finished"):
        cache.read(tmp_path)
    (tmp_path / "00001.npz").write_bytes(b"half")  # what a machine that lost power may leave
    plan = begin(tmp_path)
    assert plan.missing == [(4, 8), (8, 10)]
    write(plan)
    cache.finish(plan)
    np.testing.assert_array_equal(cache.read(tmp_path)["features"][:, 0], np.arange(10))


def test_a_folder_begun_with_other_shards_keeps_them(tmp_path):
    write(begin(tmp_path), [(0, 4)])
    assert begin(tmp_path, shard_rows=5).missing == [(4, 8), (8, 10)]


def test_processes_share_the_shards_and_the_first_one_finishes(tmp_path):
    plans = [begin(tmp_path, process_index=i, process_count=2) for i in range(2)]
    assert [plan.missing for plan in plans] == [[(0, 4), (8, 10)], [(4, 8)]]
    assert [plan.total for plan in plans] == [6, 4]
    barrier = threading.Barrier(2)

    def work(index):
        time.sleep(0.2 * index)  # the first process has to wait for the second
        write(plans[index])
        cache.finish(plans[index], process_index=index, wait=lambda name: barrier.wait(10))
        assert cache.is_complete(tmp_path, IDENTITY)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(cache.read(tmp_path)["features"][:, 0], np.arange(10))


def test_a_process_that_left_shards_out_is_found(tmp_path):
    plan = begin(tmp_path, process_index=0, process_count=2)
    write(plan)
    with pytest.raises(ValueError, match=r"lacks 00001\.npz"):
        cache.finish(plan)
    assert not cache.is_complete(tmp_path, IDENTITY)


def test_rows_without_a_picture_are_left_out_and_told(tmp_path):
    plan = begin(tmp_path)
    for first, last in plan.missing:
        rows = np.arange(first, last)
        reasons = np.asarray(["cut off" if row in (1, 9) else "" for row in rows])
        cache.write_shard(plan, (first, last), {"features": rows[:, None], cache.SKIPPED: reasons})
    cache.finish(plan)
    assert cache.skipped_rows(tmp_path) == {1: "cut off", 9: "cut off"}
    assert cache.read(tmp_path).keys() == {"features"}
    np.testing.assert_array_equal(cache.read(tmp_path)["features"][:, 0], [0, 2, 3, 4, 5, 6, 7, 8])


def test_leftovers_of_dead_processes_go_and_those_of_live_ones_stay(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    host = socket.gethostname()
    gone = [
        f"00000.{dead.pid}.tmp.npz",
        f"00000.{host}.{dead.pid}.tmp.npz",
        f"manifest.{host}.{dead.pid}.tmp",
    ]
    stay = [f"00000.{host}.{os.getppid()}.tmp.npz", f"00000.elsewhere.{dead.pid}.tmp.npz", "notes.txt"]
    old = f"00001.elsewhere.{os.getppid()}.tmp.npz"
    for name in (*gone, *stay, old):
        (tmp_path / name).touch()
    os.utime(tmp_path / old, (0, 0))
    begin(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*stay, "identity.json"}


def test_of_two_runs_the_first_shard_stays(tmp_path):
    first, second = begin(tmp_path), begin(tmp_path)
    write(first)
    cache.finish(first)
    for first, last in second.missing:  # the other run computed on other devices: not the same bits
        cache.write_shard(second, (first, last), {"features": np.ones((last - first, 1), np.float32)})
    cache.finish(second)
    np.testing.assert_array_equal(cache.read(tmp_path)["features"][:, 0], np.arange(10))
    assert not list(tmp_path.glob("*.tmp*"))


def test_a_changed_shard_is_refused_by_name(tmp_path):
    fill(tmp_path)
    np.savez(tmp_path / "00001.npz", features=np.zeros((4, 1), np.float32))
    with pytest.raises(ValueError, match=r"00001\.npz"):
        cache.read(tmp_path)


def test_a_folder_of_other_features_is_refused(tmp_path):
    fill(tmp_path)
    with pytest.raises(ValueError, match="other features"):
        begin(tmp_path, identity=IDENTITY | {"teacher": "u"})


def test_key_depends_on_every_part():
    assert cache.cache_key(a=1, b="x") == cache.cache_key(b="x", a=1)
    assert cache.cache_key(a=1, b="x") != cache.cache_key(a=1, b="y")
    assert cache.cache_key(a=1) != cache.cache_key(a="1")


@pytest.mark.parametrize("name", ["manifest.json", "identity.json"])
def test_a_damaged_description_is_named(tmp_path, name):
    fill(tmp_path)
    (tmp_path / name).write_text("{half")
    with pytest.raises(ValueError, match=rf"{name} is damaged .*; remove the folder"):
        begin(tmp_path) if name == "identity.json" else cache.is_complete(tmp_path, IDENTITY)
