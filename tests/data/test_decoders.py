"""Pictures decoded by processes: the same pixels in the same order, and no process left, whatever happens."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import UnidentifiedImageError

from kdhash.data import decoders, load_dataset, sources
from kdhash.data.decoders import decode_by_processes
from kdhash.data.write_tfds import encode_png

SHAPE = (8, 8, 3)


@pytest.fixture
def blocks():
    """Seven blocks of one to seven encoded pictures, and the pictures."""
    pictures = np.random.default_rng(0).integers(0, 256, (28, *SHAPE), np.uint8)
    starts = np.cumsum(range(8))
    return [
        [encode_png(picture) for picture in pictures[start:stop]]
        for start, stop in zip(starts, starts[1:], strict=False)
    ], pictures


@pytest.fixture
def started(monkeypatch):
    """The processes that were started."""
    found = []

    class Watched(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            found.append(self)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    return found


def test_pixels_come_in_order_and_the_processes_end(blocks, started):
    encoded, pictures = blocks
    found = list(decode_by_processes(iter(encoded), SHAPE, None, 2))
    assert [len(part) for part in found] == [1, 2, 3, 4, 5, 6, 7]
    np.testing.assert_array_equal(np.concatenate(found), pictures)
    assert [child.returncode for child in started] == [0, 0]


def test_a_size_is_brought_to(blocks):
    found = list(decode_by_processes(blocks[0], (4, 4, 3), 4, 1))
    assert {part.shape[1:] for part in found} == {(4, 4, 3)}


@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [(b"no picture", UnidentifiedImageError, "cannot identify"), (None, ValueError, "give image_size")],
)
def test_what_is_wrong_with_a_picture_is_said_here(blocks, started, bad, error, text):
    encoded, _ = blocks
    encoded[4][1] = bad or encode_png(np.zeros((9, 8, 3), np.uint8))
    with pytest.raises(error, match=text):
        list(decode_by_processes(encoded, SHAPE, None, 2))
    assert [child.returncode for child in started] == [0, 0]


def test_a_process_that_is_killed_is_told_of(blocks, started):
    def killing():
        yield from blocks[0][:3]
        started[0].kill()
        started[0].wait()
        yield from blocks[0][3:]

    with pytest.raises(RuntimeError, match="has ended, with code -9"):
        list(decode_by_processes(killing(), SHAPE, None, 1))
    assert started[0].returncode == -signal.SIGKILL


def test_an_error_of_the_reader_and_an_early_end_leave_no_process(blocks, started):
    def broken():
        yield blocks[0][0]
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="fire"):
        list(decode_by_processes(broken(), SHAPE, None, 1))
    reading = decode_by_processes(blocks[0], SHAPE, None, 1)
    np.testing.assert_array_equal(next(reading)[0], blocks[1][0])
    reading.close()
    assert [child.returncode for child in started] == [0, 0]


def test_signals_to_all_are_left_to_the_one_that_asks(blocks, started):
    def interrupted():
        yield from blocks[0][:4]
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(started[0].pid, number)
        yield from blocks[0][4:]

    found = list(decode_by_processes(interrupted(), SHAPE, None, 1))
    np.testing.assert_array_equal(np.concatenate(found), blocks[1])


def test_many_small_pictures_are_read_by_processes_and_are_the_same(tiny, started, monkeypatch):
    expected = load_dataset("tiny", tiny[0])
    assert not started  # so few are not worth it
    monkeypatch.setattr(sources, "WORTH_PROCESSES", 1)
    monkeypatch.setattr(sources, "READ_ROWS", 4)
    monkeypatch.setattr(sources, "processes_for", lambda: 2)
    found = load_dataset("tiny", tiny[0])
    assert len(started) == 2
    assert (found.fingerprint, found.ids) == (expected.fingerprint, expected.ids)
    rows = np.arange(len(found))
    np.testing.assert_array_equal(found.images[rows], expected.images[rows])
    np.testing.assert_array_equal(found.labels, expected.labels)
    load_dataset("tiny", tiny[0], image_size=16)  # resizing lets threads at it
    load_dataset("tiny", tiny[0], in_memory=False)
    assert len(started) == 2


def test_one_core_reads_alone(monkeypatch):
    for cores, processes in ((1, 0), (2, 2), (64, decoders.MOST)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: range(cores), raising=False)
        assert decoders.processes_for() == processes


def test_a_script_without_a_main_guard_may_load_pictures(tiny, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from kdhash.data import load_dataset, sources\n"
        "sources.WORTH_PROCESSES = 1\nsources.processes_for = lambda: 2\n"
        f"print(len(load_dataset('tiny', {str(tiny[0])!r})))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("42\n", "")
