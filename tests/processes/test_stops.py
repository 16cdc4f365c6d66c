"""A process that is killed, and SIGTERM: how a run ends then, and how it goes on."""

import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from kdhash.training.metric_log import read_metrics
from tests.processes.starting import finish, start, start_several, succeed, wait_until

TRAINED = "seed0/teacher"
SCHEDULE = {"epochs": 12.0, "checkpoint_every_epochs": 4.0, "log_every": 4}  # of 19 steps
STEPS, FIRST = 228, 76


def arguments(workdir):
    schedule = [f"--config.hasher.schedule.{name}={value}" for name, value in SCHEDULE.items()]
    return ("--config", "tests/processes/small_runs.py:brcd", "--workdir", workdir, *schedule)


def logged(workdir) -> int:
    lines = read_metrics(workdir / TRAINED)
    return lines[-1]["step"] if lines else 0


def weights(workdir):
    return {name: load_file(workdir / name / "model.safetensors") for name in (TRAINED, "seed0/brcd")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The workdir of a run that nothing disturbs; it may still be going on: `finished(undisturbed)` waits for it."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    process = start("kdhash.main", *arguments(workdir))
    yield workdir, process
    process.kill()
    process.wait()


def finished(undisturbed):
    workdir, process = undisturbed
    if process.returncode is None:
        succeed([process])
    return weights(workdir)


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
    assert f"seed0 teacher: saved after step {step} of {STEPS}. The same command goes on from there" in output
    assert (tmp_path / TRAINED / "checkpoints" / str(step)).is_dir()
    assert not (tmp_path / TRAINED / "model.safetensors").exists()
    (output,) = succeed([start("kdhash.main", *arguments(tmp_path))])
    assert "made anew" not in output
    expected = finished(undisturbed)
    for name, tensors in weights(tmp_path).items():
        for key, value in tensors.items():
            np.testing.assert_array_equal(value, expected[name][key], err_msg=f"{name} {key}")


def test_one_of_four_is_killed_and_two_go_on_and_one_ends(undisturbed, tmp_path):
    four = start_several(4, "kdhash.main", *arguments(tmp_path), "--heartbeat_timeout", 10)
    wait_until(lambda: (tmp_path / TRAINED / "checkpoints" / str(FIRST)).is_dir(), four)
    before = time.monotonic()
    four[2].kill()
    codes, outputs = finish(four)
    assert time.monotonic() - before < 40  # twice the heartbeat timeout and what a busy machine takes
    assert codes[2] == -signal.SIGKILL
    for index in (0, 1, 3):
        assert codes[index] not in (0, -signal.SIGKILL), outputs[index]
        assert (
            "another process of this run is gone" in outputs[index] or "another task died" in outputs[index]
        )

    two = start_several(2, "kdhash.main", *arguments(tmp_path), "--stopped_exit_code", 75)
    wait_until(lambda: logged(tmp_path) > FIRST + 4, two)
    two[1].send_signal(signal.SIGTERM)  # one machine goes away: both stop, after the same step
    codes, outputs = finish(two)
    assert codes == [75, 75], outputs
    step = logged(tmp_path)
    assert FIRST < step < STEPS
    assert f"saved after step {step} of {STEPS}" in outputs[0]
    assert "was begun on 4 x cpu in 4 processes and goes on with 2 x cpu in 2 processes" in outputs[0]

    (output,) = succeed([start("kdhash.main", *arguments(tmp_path))])
    assert "goes on with 1 x cpu" in output
    expected = finished(undisturbed)
    for key, value in weights(tmp_path)[TRAINED].items():
        np.testing.assert_allclose(value, expected[TRAINED][key], rtol=1e-3, atol=1e-3, err_msg=key)
