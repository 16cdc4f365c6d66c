"""The clock says how much of the time the devices had nothing to do."""

import threading
import time

import numpy as np
import pytest

from kdhash.training.idle import DeviceClock


class Step:
    """What a step returns: there after `seconds` of work, which begins when the step before is done."""

    def __init__(self, seconds, before=None):
        self._done = threading.Event()

        def work():
            if before is not None:
                before._done.wait()
            time.sleep(seconds)
            self._done.set()

        threading.Thread(target=work).start()

    def block_until_ready(self):
        self._done.wait()
        return self


@pytest.fixture
def clock():
    one = DeviceClock(inline=False)
    yield one
    one.close()


def test_a_device_that_always_has_a_step_before_it_is_never_idle(clock):
    clock.restart()
    step = None
    for _ in range(5):
        step = Step(0.03, step)
        clock.handed(0.0, step)
    found = clock.read()
    assert found["idle"] < 0.1
    assert found["steps_per_second"] == pytest.approx(1 / 0.03, rel=0.5)


def test_a_device_that_waits_for_the_host_is_idle_meanwhile(clock):
    clock.restart()
    for _ in range(4):
        time.sleep(0.06)  # the host looks for a batch
        step = Step(0.02)
        clock.handed(0.0, step)
        step.block_until_ready()
    assert 0.6 < clock.read()["idle"] < 0.9


def test_a_device_that_waits_for_python_is_idle_meanwhile(clock):
    clock.restart()
    step = None
    for _ in range(30):
        begin = time.thread_time()
        while time.thread_time() - begin < 0.003:
            pass
        step = Step(0.0005, step)
        clock.handed(0.0, step)
    assert clock.read()["idle"] > 0.4


def test_a_device_that_waits_for_a_batch_on_its_way_is_idle_meanwhile(clock):
    clock.restart()
    batch = Step(0.06)
    batch.is_ready = lambda: False
    clock.handed(0.0, Step(0.02, batch), {"rows": batch, "epoch": np.ones(1)})
    assert 0.6 < clock.read()["idle"] < 0.9


def test_each_reading_begins_anew(clock):
    time.sleep(0.1)
    clock.restart()
    clock.handed(0.0, np.ones(1))
    clock.read()
    step = Step(0.1)
    clock.handed(0.0, step)
    found = clock.read()
    assert found["idle"] < 0.2
    assert 3 < found["steps_per_second"] < 11
