"""What can be said before any process is joined: arguments that do not fit, and environments that are found. (The rest:
tests/processes.)"""

import os

import jax
import pytest

from kdhash import processes
from kdhash.training.mapping import data_mesh


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "maybe"}, "choose one of auto, on, off"),
        ({"coordinator": "here:1"}, "--coordinator, --process_count and --process_index together"),
        ({"index": 0, "count": 2}, "together, or none of them"),
        (
            {"mode": "off", "coordinator": "here:1", "count": 2, "index": 0},
            "'off', but there is a --coordinator",
        ),
        (
            {"coordinator": "here:1", "count": 2, "index": 2},
            "--process_index is 2 of 2 processes, counted from 0",
        ),
        ({"coordinator": "here", "count": 2, "index": 1}, "give HOST:PORT of process 0"),
        ({"coordinator": ":8476", "count": 2, "index": 1}, "give HOST:PORT of process 0"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.start(**arguments)
    assert not jax.distributed.is_initialized()


def test_a_coordinator_that_does_not_answer_is_named_with_its_place():
    with pytest.raises(
        ConnectionError, match=r"no coordinator at localhost:9 after 0\.3 s .*is process 0 running"
    ):
        processes.start(coordinator="localhost:9", count=2, index=1, connect_timeout=0.3)


@pytest.mark.parametrize(
    ("found", "environment"),
    [
        (None, {}),
        (
            None,
            {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
        ),  # the shell of salloc, no step
        (
            None,
            {"SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"},
        ),  # a step of one task
        ("Slurm", {"SLURM_STEP_NODELIST": "n[1-4]", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}),
        ("Slurm", {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}),
        (None, {"OMPI_COMM_WORLD_SIZE": "1"}),
        ("Open MPI", {"OMPI_COMM_WORLD_SIZE": "2"}),
        (None, {"TPU_WORKER_HOSTNAMES": "localhost"}),
        ("TPU", {"TPU_WORKER_HOSTNAMES": "a,b"}),
    ],
)
def test_environments_of_several_processes(monkeypatch, found, environment):
    for name in os.environ:
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "MEGASCALE_")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes.cluster() == found


def test_one_process_asks_nobody():
    assert processes.exchange("text") == ["text"]
    assert processes.by_first(lambda: {1: object}) == {1: object}  # nothing has to go through JSON
    assert processes.together(lambda: 3) == 3
    assert processes.share_of(data_mesh()) == (0, 1)
    processes.agree({"data": "a"})


def test_a_file_that_never_appears_is_named(tmp_path):
    assert processes.appear(tmp_path) == tmp_path
    with pytest.raises(FileNotFoundError, match="on a file system that all machines share"):
        processes.appear(tmp_path / "model.safetensors", seconds=0.2)
