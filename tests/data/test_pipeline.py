"""Batches are a function of the step; the prefetch keeps order, stops, and hands errors on."""

import threading
import time

import numpy as np
import pytest

from kdhash.data import batches, device_prefetch

ROWS = np.arange(100, 150)


def rows_of(rows):
    return {"rows": rows}


def make(**options):
    return batches(rows_of, options.pop("indices", ROWS), **{"batch_size": 16, "seed": 3, **options})


def test_an_epoch_has_every_row_once_and_drops_the_rest():
    dataset = make()
    epochs = [np.concatenate([dataset[3 * epoch + step]["rows"] for step in range(3)]) for epoch in range(4)]
    for epoch in epochs:
        assert epoch.dtype == np.int64
        assert len(set(epoch.tolist())) == 48
        assert set(epoch.tolist()) <= set(ROWS.tolist())
    assert len({tuple(epoch) for epoch in epochs}) == 4
    # another pair of rows is left out in each epoch
    assert len({tuple(sorted(set(ROWS.tolist()) - set(epoch.tolist()))) for epoch in epochs}) > 1


def test_content_is_a_function_of_seed_and_step():
    late_first = make()
    late = late_first[1000]["rows"]
    np.testing.assert_array_equal(late, make()[1000]["rows"])
    np.testing.assert_array_equal(late_first[0]["rows"], make()[0]["rows"])
    assert not np.array_equal(make(seed=4)[0]["rows"], make()[0]["rows"])


def test_epoch_counts_those_that_are_over():
    dataset = make(with_epoch=True, process_index=1, process_count=2)
    for step, epoch in ((0, 0), (2, 0), (3, 1), (8, 2), (3001, 1000)):
        np.testing.assert_array_equal(dataset[step]["epoch"], np.full(8, epoch, np.int32))
    assert "epoch" not in make()[0]


@pytest.mark.parametrize("count", [2, 4, 16])
def test_processes_share_the_global_batch(count):
    parts = [make(process_index=index, process_count=count) for index in range(count)]
    for step in (0, 2, 3, 500):
        joined = np.concatenate([part[step]["rows"] for part in parts])
        np.testing.assert_array_equal(joined, make()[step]["rows"])


def test_fetch_sees_only_the_rows_of_its_process():
    seen = []
    dataset = batches(
        lambda rows: seen.append(rows) or {"rows": rows},
        ROWS,
        batch_size=16,
        seed=0,
        process_index=1,
        process_count=4,
    )
    _ = dataset[7]
    assert [len(rows) for rows in seen] == [4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"batch_size": 15, "process_count": 2},
            r"batch_size \(15\) must be divisible by the process count \(2\)",
        ),
        ({"batch_size": 0}, r"batch_size \(0\)"),
        ({"batch_size": 51}, r"batch_size \(51\) is larger than the 50"),
        ({"process_index": 2, "process_count": 2}, "process_index is 2 of 2"),
    ],
)
def test_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_prefetch_keeps_order_from_any_step():
    dataset = make()
    stream = device_prefetch(dataset, 7, lambda batch: batch["rows"] + 1)
    for step in range(7, 20):
        np.testing.assert_array_equal(next(stream), dataset[step]["rows"] + 1)
    stream.close()
    assert not prefetch_threads()


def test_prefetch_works_ahead_but_not_further_than_depth():
    placed = []
    stream = device_prefetch(make(), 0, lambda batch: placed.append(1), depth=3)
    next(stream)
    deadline = time.monotonic() + 5
    while len(placed) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    # one taken, three held, one in the worker's hands
    assert len(placed) == 5
    stream.close()


@pytest.mark.parametrize("where", ["fetch", "put"])
def test_errors_surface_at_their_step(where):
    calls = []

    def fail_third(value):
        calls.append(1)
        if len(calls) == 3:
            raise KeyError(f"{where} broke")
        return value

    def same(value):
        return value

    dataset = batches(fail_third if where == "fetch" else same, ROWS, batch_size=5, seed=0)
    stream = device_prefetch(dataset, 0, fail_third if where == "put" else same)
    next(stream), next(stream)
    with pytest.raises(KeyError, match=f"{where} broke"):
        next(stream)
    assert not prefetch_threads()


def test_prefetch_ends_with_a_finite_dataset():
    stream = device_prefetch([10, 11, 12], 1, lambda batch: batch)
    assert list(stream) == [11, 12]
    assert not prefetch_threads()


def test_prefetch_stops_when_forgotten():
    stream = device_prefetch(make(), 0, lambda batch: batch)
    next(stream)
    assert prefetch_threads()
    del stream
    assert not prefetch_threads()


def test_prefetch_needs_room():
    with pytest.raises(ValueError, match="depth is 0"):
        next(device_prefetch(make(), 0, lambda batch: batch, depth=0))
