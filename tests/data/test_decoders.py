"""Pictures decoded by processes: the same pixels in the same order and no process left, whatever happens to the processes."""

import os
import signal
import subprocess
import sys
import time

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
    """The processes that were started; none is left."""
    found = []

    class Watched(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            found.append(self)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    yield found
    assert all(child.returncode is not None for child in found)


@pytest.fixture
def here(monkeypatch):
    """How many blocks were decoded in this process."""
    calls, decode = [], decoders.decode_pictures

    def counted(*args):
        calls.append(args)
        return decode(*args)

    monkeypatch.setattr(decoders, "decode_pictures", counted)
    return calls


def test_the_processes_decode_and_pixels_come_in_order(blocks, started, here):
    encoded, pictures = blocks
    found = list(decode_by_processes(iter(encoded), SHAPE, None, 2))
    assert [len(part) for part in found] == [1, 2, 3, 4, 5, 6, 7]
    np.testing.assert_array_equal(np.concatenate(found), pictures)
    assert (len(started), len(here)) == (2, 0)


def test_a_size_is_brought_to(blocks, started, here):
    found = list(decode_by_processes(blocks[0], (4, 4, 3), 4, 1))
    assert [part.shape for part in found] == [(count, 4, 4, 3) for count in range(1, 8)]
    assert (len(started), len(here)) == (1, 0)


@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [(b"no picture", UnidentifiedImageError, "cannot identify"), (None, ValueError, "give image_size")],
)
def test_what_is_wrong_with_a_picture_is_said(blocks, started, bad, error, text):
    encoded, _ = blocks
    encoded[4][1] = bad or encode_png(np.zeros((9, 8, 3), np.uint8))
    with pytest.raises(error, match=text):
        list(decode_by_processes(encoded, SHAPE, None, 2))
    assert started


def ended(child):
    child.kill()
    child.wait()


def terminated(child):
    child.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("harm", [ended, terminated])
@pytest.mark.parametrize("after", [0, 3])
def test_a_process_that_is_ended_is_not_missed(blocks, started, harm, after):
    def harming():
        yield from blocks[0][:after]
        harm(started[0])
        yield from blocks[0][after:]

    found = list(decode_by_processes(harming(), SHAPE, None, 1))
    np.testing.assert_array_equal(np.concatenate(found), blocks[1])


def test_sigterm_to_a_whole_job_does_not_end_a_process_at_work(blocks, started, here):
    def terminating():
        yield from blocks[0][:4]
        terminated(started[0])  # the first block has been answered
        yield from blocks[0][4:]

    assert len(list(decode_by_processes(terminating(), SHAPE, None, 1))) == 7
    assert not here


@pytest.mark.parametrize("python", ["", "/bin/true", "/bin/cat"])
def test_without_a_python_to_start_all_is_done_here(blocks, started, here, monkeypatch, python):
    monkeypatch.setattr(sys, "executable", python)
    found = list(decode_by_processes(blocks[0], SHAPE, None, 2))
    np.testing.assert_array_equal(np.concatenate(found), blocks[1])
    assert len(here) == 7


@pytest.mark.parametrize("printed", ["hello", "h" * 16, "\\x80\\x05" * 400])
def test_a_process_that_prints_something_else_is_not_believed(
    blocks, started, here, monkeypatch, tmp_path, printed
):
    (tmp_path / "sitecustomize.py").write_text(f"print('{printed}')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = list(decode_by_processes(blocks[0], SHAPE, None, 1))
    np.testing.assert_array_equal(np.concatenate(found), blocks[1])
    assert here


def test_nothing_is_imported_from_the_current_folder(blocks, started, here, monkeypatch, tmp_path):
    for name in ("pickle", "kdhash", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [tmp_path, *sys.path])  # no string: Python passes it over
    assert len(list(decode_by_processes(blocks[0], SHAPE, None, 1))) == 7
    assert not here


def test_an_error_of_the_reader_and_an_early_end_leave_no_process(blocks, started):
    def broken():
        yield blocks[0][0]
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="fire"):
        list(decode_by_processes(broken(), SHAPE, None, 1))
    reading = decode_by_processes(blocks[0], SHAPE, None, 1)
    np.testing.assert_array_equal(next(reading)[0], blocks[1][0])
    reading.close()
    assert len(started) == 2


def test_processes_end_with_the_one_that_started_them():
    program = (
        "import os, time\nfrom kdhash.data import decoders\n"
        "child = decoders._start()\nprint(child.pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 60
    while running(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running(number: int) -> bool:
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_many_small_pictures_are_read_by_processes_and_are_the_same(tiny, started, here, monkeypatch):
    expected = load_dataset("tiny", tiny[0])
    assert not started  # so few are not worth it
    monkeypatch.setattr(sources, "WORTH_PROCESSES", 1)
    monkeypatch.setattr(sources, "READ_ROWS", 4)
    monkeypatch.setattr(sources, "decoding_processes", lambda: 2)
    found = load_dataset("tiny", tiny[0])
    assert (len(started), len(here)) == (2, 0)
    assert (found.fingerprint, found.ids) == (expected.fingerprint, expected.ids)
    rows = np.arange(len(found))
    np.testing.assert_array_equal(found.images[rows], expected.images[rows])
    np.testing.assert_array_equal(found.labels, expected.labels)
    load_dataset("tiny", tiny[0], image_size=16)  # resizing lets threads at it
    load_dataset("tiny", tiny[0], in_memory=False)
    assert len(started) == 2


def test_one_process_a_core_and_none_for_one_alone_or_a_program_without_python(monkeypatch):
    for cores, processes in ((1, 0), (2, 2), (64, decoders.MOST)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: range(cores), raising=False)
        assert decoders.decoding_processes() == processes
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert decoders.decoding_processes() == 0


def test_a_script_without_a_main_guard_is_run_once(tiny, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from kdhash.data import decoders, load_dataset, sources\n"
        "assert sources.WORTH_PROCESSES and sources.decoding_processes\n"
        "sources.WORTH_PROCESSES, sources.decoding_processes = 1, lambda: 2\n"
        "decoders.decode_pictures = None\n"  # nothing is decoded here
        f"print(len(load_dataset('tiny', {str(tiny[0])!r})))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "42\n", done.stderr
