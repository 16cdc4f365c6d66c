"""The scripts for several hosts: linted, and run with stand-ins for ssh and Slurm that start real processes on this machine."""

import signal
import socket
import subprocess
import time

import pytest

from kdhash.training.metric_log import read_metrics
from tests.launch.stand_ins import (
    LAUNCH,
    SMALL,
    TOOLS,
    assert_known_flags,
    calls,
    environment,
    python_of_tests,
    stand_in,
)
from tests.processes.starting import ROOT, TIMEOUT, free_port

SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch", ROOT / ".ci" / "run"]
SSH = 'while [ "$1" = -o ]; do shift 2; done; shift; exec sh -c "$*"'  # as the shell of another machine would
# Two tasks on one node each; their numbers are written down, so that a test can signal them as Slurm does.
SRUN = """while [[ "$1" == --* ]]; do shift; done
for index in 0 1; do
  SLURM_PROCID=$index SLURM_LOCALID=0 SLURM_NTASKS=2 SLURM_STEP_NODELIST=localhost "$@" & tasks+=($!)
done
echo "${tasks[@]}" > "$(dirname "$0")/tasks"
code=0
for task in "${tasks[@]}"; do wait "$task" || { one=$?; [ "$one" -le "$code" ] || code=$one; }; done
exit "$code"
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_bash_and_shellcheck(script):
    subprocess.run(["bash", "-n", script], check=True)
    found = subprocess.run([TOOLS / "shellcheck", "-x", "-P", LAUNCH, script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def start(script, environment, *arguments):
    return subprocess.Popen(
        ["bash", LAUNCH / script, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(there, process):
    deadline = time.monotonic() + TIMEOUT
    while not there():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ssh_runs_a_process_a_host_and_passes_sigterm_on(tmp_path):
    commands, checkout, workdir = tmp_path / "bin", tmp_path / "check out", tmp_path / "work dir"
    stand_in(commands, "ssh", SSH)
    python_of_tests(checkout / ".venv" / "bin" / "python")
    for name in ("kdhash", "tests", "configs"):
        (checkout / name).symlink_to(ROOT / name)
    settings = {"HOSTS": "one me@two", "DIR": checkout, "COORDINATOR": f"localhost:{free_port()}"}
    process = start(
        "ssh_hosts.sh", environment(commands, **settings), "--config", SMALL, "--workdir", workdir
    )
    wait_for(lambda: read_metrics(workdir / "pretrain" / "a"), process)
    process.terminate()
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output
    assert "[one] kdhash: SIGTERM: stopping" in output
    assert "[me@two] kdhash: SIGTERM: stopping" in output
    assert "The same command goes on from there" in output
    assert any((workdir / "pretrain" / "a" / "checkpoints").iterdir())


@pytest.fixture
def two_hosts(tmp_path):
    """`two_hosts(script)` -> the process of ssh_hosts.sh, on whose hosts the program is `script`; the folder of stand-ins."""
    commands = tmp_path / "bin"
    stand_in(commands, "ssh", SSH)

    def begin(script):
        stand_in(tmp_path / ".venv", "python", script)
        (tmp_path / ".venv" / "bin").symlink_to(tmp_path / ".venv")
        settings = environment(commands, HOSTS="me@one two", DIR=tmp_path, PORT=7)
        return start("ssh_hosts.sh", settings, "--config", "configs/quickstart.py", "--workdir", "a folder")

    return begin


def test_ssh_stops_the_others_where_one_fails(two_hosts, tmp_path):
    """The first host would run for a minute; its program says when it is told to stop."""
    process = two_hosts(
        'if [[ "$*" == *"--process_index 1" ]]; then sleep .5; exit 3; fi\n'
        'trap "echo told; exit 0" TERM; for _ in {1..600}; do sleep .1; done'
    )
    before = time.monotonic()
    output, _ = process.communicate(timeout=TIMEOUT)
    assert time.monotonic() - before < 30
    assert process.returncode == 3, output
    assert "[me@one] told" in output
    assert "a process failed: stopping 2 processes" in output
    first, second = sorted(calls(tmp_path / ".venv", "python"), key=lambda arguments: arguments[-1])
    assert first[-6:] == ["--coordinator", "one:7", "--process_count", "2", "--process_index", "0"]
    assert second[-6:] == ["--coordinator", "one:7", "--process_count", "2", "--process_index", "1"]
    assert first[:6] == ["-m", "kdhash.main", "--config", "configs/quickstart.py", "--workdir", "a folder"]
    assert_known_flags(first)


def test_ssh_ends_with_0_where_all_do(two_hosts, tmp_path):
    output, _ = (process := two_hosts("echo done")).communicate(timeout=TIMEOUT)
    assert (process.returncode, sorted(output.splitlines())) == (0, ["[me@one] done", "[two] done"])


@pytest.fixture
def slurm(tmp_path):
    """`slurm(python, arguments, **environment)` -> the process of a job of two tasks. Stand-ins are in tmp_path/bin."""
    commands = tmp_path / "bin"
    stand_in(commands, "srun", SRUN)
    stand_in(commands, "scontrol", "")

    def begin(python, *arguments, **others):
        job = {"SLURM_JOB_ID": 7, "SLURM_CPUS_PER_TASK": 16, "SLURM_SUBMIT_DIR": ROOT, "PYTHON": python}
        return start("slurm.sbatch", environment(commands, **job | others), *arguments)

    return begin


def test_slurm_saves_before_the_time_limit_and_puts_the_job_back(slurm, tmp_path):
    """Two real processes, which find each other by what Slurm puts into the environment."""
    python_of_tests(tmp_path / "python")
    workdir = tmp_path / "work dir"
    process = slurm(
        tmp_path / "python", "--config", SMALL, "--workdir", workdir, SLURM_JOB_ID=job_of_free_port()
    )
    wait_for(lambda: read_metrics(workdir / "pretrain" / "a"), process)
    for task in (tmp_path / "bin" / "tasks").read_text().split():
        signal_process(int(task))
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 75, output
    assert output.count("SIGTERM: stopping, within 90 s") == 2
    assert output.count("saved after step") == 1  # process 0 speaks for both
    assert any((workdir / "pretrain" / "a" / "checkpoints").iterdir())
    assert [arguments[0] for arguments in calls(tmp_path / "bin", "scontrol")] == ["requeue"]


def signal_process(number: int) -> None:
    subprocess.run(["kill", "-TERM", str(number)], check=True)


def job_of_free_port() -> int:
    """A number of a job from which JAX makes the number of a port that is free."""
    for job in range(4096):
        with socket.socket() as free:
            try:
                free.bind(("localhost", 61440 + job))
                return job
            except OSError:
                continue
    raise AssertionError("no port is free")


@pytest.mark.parametrize("code", [0, 3])
def test_slurm_leaves_a_job_alone_that_ends_by_itself(slurm, tmp_path, code):
    stand_in(tmp_path / "bin", "program", f'echo "devices $JAX_LOCAL_DEVICE_IDS"; exit {code}')
    arguments = ["--config", "configs/quickstart.py", "--workdir", "a folder"]
    process = slurm("program", *arguments, SLURM_GPUS_ON_NODE=3)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code
    assert output.count("devices 0,1,2") == 2
    assert calls(tmp_path / "bin", "scontrol") == []
    (options,) = calls(tmp_path / "bin", "srun")
    assert options[:2] == ["--kill-on-bad-exit=0", "--cpus-per-task=16"]
    told = calls(tmp_path / "bin", "program")[0]
    assert told[-4:] == arguments
    assert "--stopped_exit_code=75" in told
    assert_known_flags(told)


def test_slurm_leaves_a_job_alone_that_slurm_ends(slurm, tmp_path):
    """Then the script is told too, and outlives it until its tasks are done."""
    stand_in(tmp_path / "bin", "program", "trap 'sleep .5; exit 75' TERM; while true; do sleep .1; done")
    process = slurm("program")
    wait_for(lambda: len(calls(tmp_path / "bin", "program")) == 2, process)
    time.sleep(0.2)  # until their traps are set
    process.send_signal(signal.SIGTERM)
    for task in (tmp_path / "bin" / "tasks").read_text().split():
        signal_process(int(task))
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 75, output
    assert calls(tmp_path / "bin", "scontrol") == []
