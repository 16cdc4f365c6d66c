"""Starts programs of this folder, and kdhash.main, as several processes on this machine."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 240  # seconds of a run; generous, as test machines are busy
FLAGS = "--xla_backend_optimization_level=0"  # most of the time here goes into compiling


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start(module: str, *arguments: object) -> subprocess.Popen:
    """python -m module; standard error is read together with standard output."""
    compiled = {  # shared with this process, as far as programs are the same
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.processes.light", module, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu"} | compiled,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_several(count: int, module: str, *arguments: object) -> list[subprocess.Popen]:
    """The same with --coordinator, --process_count, --process_index."""
    place = ("--coordinator", f"localhost:{free_port()}", "--process_count", count, "--process_index")
    return [start(module, *arguments, *place, index) for index in range(count)]


def finish(processes: list[subprocess.Popen], timeout: float = TIMEOUT) -> tuple[list[int], list[str]]:
    """Exit codes and outputs; what is still running after `timeout` seconds is killed, and an error."""
    deadline = time.monotonic() + timeout
    try:
        outputs = [
            process.communicate(timeout=max(0.1, deadline - time.monotonic()))[0] for process in processes
        ]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


def succeed(processes: list[subprocess.Popen]) -> list[str]:
    codes, outputs = finish(processes)
    assert codes == [0] * len(processes), "\n".join(outputs)
    return outputs


def wait_until(true: Callable[[], bool], processes: list[subprocess.Popen]) -> None:
    """Waits while the processes run. Fails where one ends before."""
    deadline = time.monotonic() + TIMEOUT
    while not true():
        assert all(process.poll() is None for process in processes), finish(processes)
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
