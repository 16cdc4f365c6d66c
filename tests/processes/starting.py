"""Starts programs of this folder, and kdhash.main, as several processes on this machine."""

import atexit
import functools
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import jax

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 240  # seconds of a run; generous, as test machines are busy
ENVIRONMENT = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false",  # one device; see tests/conftest.py
    # shared with this process, as far as programs are the same
    "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


class Started:
    """A process forked from a server that has imported everything (`imported`); the part of subprocess.Popen that is needed."""

    def __init__(self, module: str, arguments: list[str]):
        number, self._said = tempfile.mkstemp()
        os.close(number)
        self._process = _server().Process(target=_run, args=(module, arguments, self._said), daemon=True)
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def finish(self, timeout: float) -> tuple[int | None, str]:
        """The exit code, which is minus the number of the signal that ended it, or None; and what was said."""
        self._process.join(timeout)
        return self._process.exitcode, Path(self._said).read_text()


@functools.cache
def _server() -> multiprocessing.context.BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.processes.imported"])
    with mock.patch.dict(os.environ, ENVIRONMENT | {"PYTHONPATH": str(ROOT)}):
        multiprocessing.forkserver.ensure_running()
    return context


def _run(module: str, arguments: list[str], said: str) -> None:
    """As python -m module; standard error is read together with standard output."""
    with open(said, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which such a process does not do by itself


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start(module: str, *arguments: object) -> Started:
    return Started(module, [str(argument) for argument in arguments])


def start_several(count: int, module: str, *arguments: object) -> list[Started]:
    """The same with --coordinator, --process_count, --process_index."""
    place = ("--coordinator", f"localhost:{free_port()}", "--process_count", count, "--process_index")
    return [start(module, *arguments, *place, index) for index in range(count)]


def finish(processes: list[Started], timeout: float = TIMEOUT) -> tuple[list[int | None], list[str]]:
    """Exit codes and outputs; what is still running after `timeout` seconds is killed, and has the code None."""
    deadline = time.monotonic() + timeout
    ends = [process.finish(max(0.1, deadline - time.monotonic())) for process in processes]
    for process in processes:
        process.kill()
    return [code for code, _ in ends], [output for _, output in ends]


def succeed(processes: list[Started]) -> list[str]:
    codes, outputs = finish(processes)
    assert codes == [0] * len(processes), "\n".join(outputs)
    return outputs


def wait_until(true: Callable[[], bool], processes: list[Started]) -> None:
    """Waits while the processes run. Fails where one ends before."""
    deadline = time.monotonic() + TIMEOUT
    while not true():
        assert all(process.poll() is None for process in processes), finish(processes)
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
