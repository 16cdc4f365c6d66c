"""Many small pictures decoded by several processes: they are done so soon that threads would only wait for Python's lock.

The processes are started by `subprocess`. Those of `multiprocessing` would run the caller's main module once more, and start JAX.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
from jaxtyping import UInt8

from kdhash.data.pictures import decode_pictures

MOST = 8
CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from kdhash.data.decoders import serve; serve()"
)


def processes_for() -> int:
    """How many processes this machine is good for; 0 where there is one core alone."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores == 1 else min(cores, MOST)


def decode_by_processes(
    blocks: Iterable[Sequence[bytes]], shape: tuple[int, int, int], size: int | None, count: int
) -> Iterator[UInt8[np.ndarray, "n h w 3"]]:
    """`decode_pictures` of every block in turn, by `count` processes at a time, which blocks are read ahead for.

    Raises what `decode_pictures` raises, and RuntimeError where a process has ended before its time.
    """
    command = [sys.executable, "-c", CHILD, json.dumps(sys.path)]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(count)
    ]
    free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    for child in children:
        free.put(child)

    def decode(block: Sequence[bytes]) -> UInt8[np.ndarray, "n h w 3"]:
        child = free.get()
        try:
            answer = _ask(child, (block, shape, size))
        finally:
            free.put(child)
        if isinstance(answer, Exception):
            raise answer
        return answer

    pool = ThreadPoolExecutor(count, thread_name_prefix="decode")
    waiting: deque[Future[UInt8[np.ndarray, "n h w 3"]]] = deque()
    try:
        for block in blocks:
            waiting.append(pool.submit(decode, block))
            if len(waiting) > 2 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        for child in children:
            child.communicate()  # closes its stdin, at which it ends


def _ask(child: subprocess.Popen[bytes], question: object) -> UInt8[np.ndarray, "n h w 3"] | Exception:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        pickle.dump(question, child.stdin, protocol=5)
        child.stdin.flush()
        return pickle.load(child.stdout)
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise RuntimeError(f"a process that decodes pictures has ended, with code {child.wait()}") from error


def serve() -> None:
    """The life of such a process: blocks from stdin, pixels or an exception to stdout, until stdin ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they are for the one that asks, with which stdin ends
    while True:
        try:
            question = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: UInt8[np.ndarray, "n h w 3"] | Exception
        try:
            answer = decode_pictures(*question)
        except Exception as error:
            answer = error
        pickle.dump(answer, sys.stdout.buffer, protocol=5)
        sys.stdout.buffer.flush()
