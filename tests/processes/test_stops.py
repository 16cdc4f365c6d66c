"""A process that is killed, and SIGTERM: how a run ends then, and how it goes on. Runs are watched until their first network is
trained."""

import functools
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from kdhash.training.metric_log import read_metrics
from tests.processes.starting import finish, start, start_several, wait_until

TRAINED = "pretrain/a"
SCHEDULE = {"epochs": 20.0, "checkpoint_every_epochs": 2.0, "log_every": 4}  # an epoch has 19 steps
STEPS, FIRST = 380, 38


def arguments(workdir):
    schedule = [f"--config.pretrain.schedule.{name}={value}" for name, value in SCHEDULE.items()]
    return ("--config", "tests/processes/small_runs.py:pretrain", "--workdir", workdir, *schedule)


def logged(workdir) -> int:
    lines = read_metrics(workdir / TRAINED)
    return lines[-1]["step"] if lines else 0


def trained(workdir, process):
    """The weights, once they are there; then the rest of the run is stopped. And what it said."""
    file = workdir / TRAINED / "model.safetensors"
    wait_until(file.exists, [process])
    process.send_signal(signal.SIGTERM)
    codes, (output,) = finish([process])
    assert codes == [0], output
    return load_file(file), output


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """undisturbed() -> the weights of a run that nothing disturbs, which goes on meanwhile."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    process = start("kdhash.main", *arguments(workdir))
    yield functools.cache(lambda: trained(workdir, process)[0])
    process.kill()


def test_sigterm_saves_and_leaves_and_the_run_goes_on_bit_for_bit(undisturbed, tmp_path):
    process = start("kdhash.main", *arguments(tmp_path))
    wait_until(lambda: logged(tmp_path) > 0, [process])
    before = time.monotonic()
    process.send_signal(signal.SIGTERM)
    codes, (output,) = finish([process])
    assert time.monotonic() - before < 20  # the grace period
    assert codes == [0], output
    step = logged(tmp_path)
    assert 0 < step < STEPS
    assert f"pretrain a: saved after step {step} of {STEPS}. The same command goes on from there" in output
    assert (tmp_path / TRAINED / "checkpoints" / str(step)).is_dir()
    assert not (tmp_path / TRAINED / "model.safetensors").exists()
    found, output = trained(tmp_path, start("kdhash.main", *arguments(tmp_path)))
    assert "made anew" not in output
    for name, value in undisturbed().items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_one_of_four_is_killed_then_two_go_on_and_one_ends(undisturbed, tmp_path):
    four = start_several(4, "kdhash.main", *arguments(tmp_path), "--heartbeat_timeout", 10)
    wait_until(lambda: (tmp_path / TRAINED / "checkpoints" / str(FIRST)).is_dir(), four)
    before = time.monotonic()
    four[2].kill()
    codes, outputs = finish(four)
    assert time.monotonic() - before < 40  # twice the heartbeat timeout, and what a busy machine takes
    assert codes[2] == -signal.SIGKILL
    for index in (0, 1, 3):
        assert codes[index] not in (0, -signal.SIGKILL), outputs[index]
        assert (
            "another process of this run is gone" in outputs[index] or "another task died" in outputs[index]
        )

    seen = logged(tmp_path)
    two = start_several(2, "kdhash.main", *arguments(tmp_path), "--stopped_exit_code", 75)
    wait_until(lambda: logged(tmp_path) > seen, two)
    two[1].send_signal(signal.SIGTERM)  # one machine goes away: both stop, after the same step
    codes, outputs = finish(two)
    assert codes == [75, 75], outputs
    step = logged(tmp_path)
    assert FIRST < step < STEPS
    assert f"saved after step {step} of {STEPS}" in outputs[0]
    assert "was begun on 4 x cpu in 4 processes and goes on with 2 x cpu in 2 processes" in outputs[0]

    found, output = trained(tmp_path, start("kdhash.main", *arguments(tmp_path)))
    assert "goes on with 1 x cpu" in output
    for name, value in undisturbed().items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-3, err_msg=name)
