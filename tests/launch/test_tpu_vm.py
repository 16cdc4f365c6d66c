"""The script for TPU slices, with a stand-in for gcloud that has slices of its own."""

import signal
import subprocess
import time

import pytest

from tests.launch.stand_ins import LAUNCH, assert_known_flags, calls, environment, stand_in
from tests.processes.starting import TIMEOUT

# The states of the slice and of the request for it lie in files. The run is preempted once, and goes through after that.
GCLOUD = """cd {folder}
gone() {{ echo "ERROR: NOT_FOUND: Resource was not found." >&2; exit 1; }}
case "$3 $4 $*" in
  "tpu-vm describe "*) cat slice 2> /dev/null || gone ;;
  "queued-resources describe "*) cat request 2> /dev/null || gone
    if [ "$(cat request)" = WAITING_FOR_RESOURCES ]; then echo ACTIVE > request; echo READY > slice; fi ;;
  "queued-resources create "*) echo WAITING_FOR_RESOURCES > request ;;
  "queued-resources delete "*) rm -f slice request ;;
  *kdhash.main*) {run} ;;
esac"""
PREEMPTED_ONCE = "[ -e once ] || { touch once; echo PREEMPTED > slice; echo SUSPENDED > request; exit 255; }"
SETTINGS = {
    "NAME": "slice",
    "ZONE": "z",
    "TYPE": "v5litepod-16",
    "VERSION": "v",
    "SPOT": 1,
    "SHARE": "10.0.0.2:/share",
    "PAUSE": 0,
}
ARGUMENTS = ("--config", "configs/quickstart.py", "--workdir", "/mnt/kdhash/a folder")
# of gcloud 528
FLAGS = {
    "create": {"node-id", "zone", "accelerator-type", "runtime-version", "spot"},
    "delete": {"zone", "force", "quiet"},
    "describe": {"zone", "format"},
    "scp": {"zone", "worker"},
    "ssh": {"zone", "worker", "command"},
}


@pytest.fixture
def gcloud(tmp_path):
    """`gcloud(what it does with the run)` -> the folder of stand-ins."""

    def make(run):
        commands = tmp_path / "bin"
        stand_in(commands, "git", "")
        stand_in(commands, "gcloud", GCLOUD.format(folder=commands, run=run))
        return commands

    return make


def script(commands, *arguments):
    return subprocess.Popen(
        ["bash", LAUNCH / "tpu_vm.sh", *arguments],
        env=environment(commands, **SETTINGS),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_slice_is_made_again_after_a_preemption(gcloud):
    commands = gcloud(PREEMPTED_ONCE)
    process = script(commands, "all", *ARGUMENTS)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output
    told = calls(commands, "gcloud")
    for arguments in told:
        assert arguments[:2] == ["compute", "tpus"]
        assert arguments[2] == ("tpu-vm" if arguments[3] in ("scp", "ssh") else arguments[2])
        names = {argument.split("=")[0][2:] for argument in arguments if argument.startswith("--")}
        assert names <= FLAGS[arguments[3]]
        assert "--zone=z" in arguments
        assert "--worker=all" in arguments or arguments[3] not in ("scp", "ssh")
    done = [arguments[3] for arguments in told if arguments[3] != "describe"]
    once = ["create", "scp", "ssh", "ssh", "ssh"]  # the last three: the share, the installation, the run
    assert done == [*once, "delete", *once]
    created = next(arguments for arguments in told if arguments[3] == "create")
    assert {"--spot", "--node-id=slice", "--accelerator-type=v5litepod-16"} <= set(created)
    remote = [arguments[-1].removeprefix("--command=") for arguments in told if arguments[3] == "ssh"]
    for command in remote:
        subprocess.run(["bash", "-n", "-c", command], check=True)
    run = remote[-1].split("kdhash.main ")[1].split(" &")[0]
    assert "'" not in run
    assert_known_flags(run.replace("a\\ folder", "folder").split())


@pytest.mark.parametrize(
    ("code", "told", "tried"),
    [(1, "failed three times", 3), (2, "the slice stays, and costs, until", 1)],
)
def test_a_run_that_fails_is_tried_three_times_but_not_a_mistake(gcloud, code, told, tried):
    commands = gcloud(f"exit {code}")
    process = script(commands, "all", *ARGUMENTS)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code
    assert told in output
    assert sum("kdhash.main" in arguments[-1] for arguments in calls(commands, "gcloud")) == tried


def test_what_runs_on_a_worker_ends_the_last_run_passes_sigterm_on_and_keeps_the_code(gcloud, tmp_path):
    """The command that gcloud is given, as the shell of a worker runs it; Ctrl-C there is a `stop` here."""
    commands = gcloud(
        f'command="${{@: -1}}"; cd {tmp_path}; HOME={tmp_path} exec bash -c "${{command#--command=}}"'
    )
    text = (commands / "gcloud").read_text()
    (commands / "gcloud").write_text(text.replace("  *kdhash.main*)", "  *kdhash.main* | *kdhash/pid*)"))
    stand_in(
        tmp_path / "kdhash" / ".venv" / "bin",
        "python",
        "trap 'echo saved; exit 75' TERM; touch started; while true; do sleep .05; done",
    )
    left = subprocess.Popen(["sleep", "60"])
    (tmp_path / "kdhash" / "pid").write_text(f"{left.pid}\n")
    process = script(commands, "run", *ARGUMENTS)
    assert left.wait(timeout=TIMEOUT) == -signal.SIGTERM
    deadline = time.monotonic() + TIMEOUT
    while not (tmp_path / "kdhash" / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 75, output
    assert "saved" in output
    assert not (tmp_path / "kdhash" / "pid").exists()
