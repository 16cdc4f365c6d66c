"""One run by several processes: how they find each other, what the first does for all, and how none is left waiting.

Every process goes through the same code in the same order. What is written, it is written by process 0, while the others wait.
"""

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kdhash import stopping

MODES = ("auto", "on", "off")
VISIBLE_SECONDS = 60  # network file systems show a new file to other machines late
Value = TypeVar("Value")


class Elsewhere(RuntimeError):
    """Another process failed; the message is its error."""


def start(
    mode: str = "auto",
    *,
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    connect_timeout: int = 300,
    heartbeat_timeout: int = 100,
) -> None:
    """Joins the processes of this run; to be called before any device is used.

    mode: 'on' and 'auto' join; 'auto' only where a coordinator is given or an environment of several processes is found
    (`cluster`); 'off' never.  coordinator: HOST:PORT of process 0, with `count` and `index` of this process; without it JAX asks
    the environment.  connect_timeout: seconds to wait for all.  heartbeat_timeout: seconds after which one that is gone ends the
    others. Raises ValueError for arguments that do not fit, and where processes have different numbers of devices, and
    ConnectionError where the coordinator is not reached. Where processes are missing, JAX itself ends this one.
    """
    _check(mode, coordinator, count, index)
    if mode == "off" or (mode == "auto" and coordinator is None and cluster() is None):
        return
    if coordinator and index:
        _reach(coordinator, connect_timeout)
    place = coordinator or "the coordinator"
    warning = threading.Timer(max(0.1, connect_timeout - 0.5), _warn, (place, count, connect_timeout))
    warning.daemon = True
    warning.start()
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            initialization_timeout=connect_timeout,
            heartbeat_timeout_seconds=heartbeat_timeout,
            shutdown_timeout_seconds=heartbeat_timeout,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConnectionError(
            f"{place}: {reason}; see the coordinator's address, the number of processes and that of this one"
        ) from error
    finally:
        warning.cancel()
    _check_devices()
    _connect_devices()


def cluster() -> str | None:
    """The environment of several processes that JAX will find here; None where there is none, or just one process.

    A TPU VM says only over the network how many hosts its slice has: there, ask for it (mode 'on').
    """
    env = os.environ
    if "SLURM_STEP_NODELIST" in env and int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", 1))) > 1:
        return "Slurm"
    if int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return "Open MPI"
    if "," in env.get("TPU_WORKER_HOSTNAMES", "") or "," in env.get("TPU_PROCESS_ADDRESSES", ""):
        return "TPU"
    return "MEGASCALE_COORDINATOR_ADDRESS" if "MEGASCALE_COORDINATOR_ADDRESS" in env else None


def several() -> bool:
    """Whether this process has joined others."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this is process 0, which writes and speaks for all."""
    return jax.process_index() == 0


def share_of(mesh: Mesh) -> tuple[int, int]:
    """(place, count) of this process among those that have devices in `mesh`; batches are divided in this order."""
    having = sorted({device.process_index for device in mesh.devices.flat})
    return having.index(jax.process_index()), len(having)


def exchange(text: str) -> list[str]:
    """The `text` of every process, in their order. All must call it; whoever is late is waited for."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(data)))
    width = 1 << int(lengths.max()).bit_length()  # few different ones: each is compiled
    rows = multihost_utils.process_allgather(np.pad(data, (0, width - len(data))))
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


def by_first(work: Callable[[], Value], among: Mesh | None = None) -> Value:
    """What `work` returns (anything JSON can hold) in process 0, handed to all; only there it is done.

    `among`: a mesh; where all its devices are this process's own, `work` is done here, and nobody waits. Where `work` raises,
    process 0 does, and all others raise Elsewhere (where it was Stopped, Stopped).
    """
    if jax.process_count() == 1 or (among is not None and share_of(among)[1] == 1):
        return work()
    failure: Exception | None = None
    answer: dict[str, Any] = {}
    if first():
        try:
            answer = {"value": work()}
        except Exception as error:  # noqa: BLE001 - it is raised again, when the others know
            kind = "stopped" if isinstance(error, stopping.Stopped) else "error"
            failure, answer = error, {kind: str(error) or type(error).__name__}
    answer = json.loads(exchange(json.dumps(answer))[0])
    if failure is not None:
        raise failure
    if "stopped" in answer:
        raise stopping.Stopped(answer["stopped"])
    if "error" in answer:
        raise Elsewhere(f"process 0: {answer['error']}")
    return answer["value"]


def together(work: Callable[[], Value]) -> Value:
    """`work` in every process, each its own result; where it raises in one, all raise, the others Elsewhere."""
    if jax.process_count() == 1:
        return work()
    failure: Exception | None = None
    value: Any = None
    try:
        value = work()
    except Exception as error:  # noqa: BLE001 - it is raised again, when the others know
        failure = error
    errors = exchange("" if failure is None else str(failure) or type(failure).__name__)
    if failure is not None:
        raise failure
    for index, text in enumerate(errors):
        if text:
            raise Elsewhere(f"process {index}: {text}")
    return value


def agree(facts: dict[str, str]) -> None:
    """Raises ValueError naming the first of `facts` in which a process differs from process 0."""
    everyone = [json.loads(text) for text in exchange(json.dumps(facts))]
    for index, theirs in enumerate(everyone):
        for name, value in everyone[0].items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"process {index} has another {name} than process 0: {theirs.get(name)} and {value}; start all processes "
                    "with the same command, code and data"
                )


def check_shared(folder: Path) -> None:
    """Raises FileNotFoundError where `folder`, which process 0 has made, is not the same for all."""
    mark = folder / by_first(lambda: f".{uuid.uuid4().hex}")
    by_first(mark.touch)
    try:
        together(lambda: appear(mark, 10))
    finally:
        if first():
            mark.unlink(missing_ok=True)


def appear(path: Path, seconds: float = VISIBLE_SECONDS) -> Path:
    """`path`, which process 0 has written, once it can be seen here. Raises FileNotFoundError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise FileNotFoundError(
                f"process {jax.process_index()} on {socket.gethostname()} does not see {path}, which process 0 has written; "
                "put --workdir and cache_dir on a file system that all machines share"
            )
        os.listdir(path.parent)  # makes a network file system look again
        time.sleep(0.1)
    return path


def leave(code: int) -> NoReturn:
    """Ends this process at once. The usual way out waits for all others, who may be waiting for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _check(mode: str, coordinator: str | None, count: int | None, index: int | None) -> None:
    given = (coordinator, count, index)
    if mode not in MODES:
        raise ValueError(f"--distributed is {mode!r}; choose one of {', '.join(MODES)}")
    if all(part is None for part in given):
        return
    if coordinator is None or count is None or index is None:
        raise ValueError("give --coordinator, --process_count and --process_index together, or none of them")
    if mode == "off":
        raise ValueError("--distributed is 'off', but there is a --coordinator; give one of both")
    if not 0 <= index < count:
        raise ValueError(f"--process_index is {index} of {count} processes, counted from 0")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"--coordinator is {coordinator!r}; give HOST:PORT of process 0, such as node1:8476")


def _reach(coordinator: str, seconds: float) -> None:
    """Waits until somebody listens there: JAX would end this process without saying what it waited for."""
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConnectionError(
                    f"no coordinator at {coordinator} after {seconds:g} s ({error}); is process 0 running, and may this machine "
                    "reach that port?"
                ) from error
        time.sleep(0.2)


def _warn(place: str, count: int | None, seconds: float) -> None:
    print(
        f"kdhash: not all {count or ''} processes came to {place} within {seconds:g} s; start each of them with the same "
        "--coordinator and --process_count, and its own --process_index",
        file=sys.stderr,
        flush=True,
    )


def _check_devices() -> None:
    counts = np.bincount([device.process_index for device in jax.devices()], minlength=jax.process_count())
    if len(set(counts.tolist())) > 1:
        raise ValueError(
            f"processes have {', '.join(map(str, counts))} devices; batches are divided evenly: give each as many"
        )


def _connect_devices() -> None:
    """Lets all devices exchange something now, when all processes are here: CPUs wait for a first meeting half a minute only,
    for any later one as long as it takes."""
    if jax.process_count() == 1:
        return
    exchange("here")
    mesh = Mesh(np.asarray(jax.devices()), ("all",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("all"))
    ones = jax.make_array_from_process_local_data(spread, np.ones(len(jax.local_devices()), np.float32))
    total = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, PartitionSpec()))(ones)
    assert int(total) == jax.device_count()
