"""Many small pictures decoded by several processes: they are done so soon that threads would only wait for Python's lock.

The processes are started by `subprocess`. Those of `multiprocessing` would run the caller's main module once more, and start JAX.
They only help: what one of them cannot do, because it could not be started, was ended or met a damaged picture, is done here.
"""

import math
import os
import pickle
import secrets
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
CHILD = "import sys; sys.path[:] = sys.argv[1:]; from kdhash.data.decoders import serve; serve()"


def decoding_processes() -> int:
    """How many processes are worth starting: one for each core that this one may use, at most `MOST`; 0 for one core alone."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    frozen = getattr(sys, "frozen", False)  # then sys.executable is the program that runs, and no Python
    return 0 if cores == 1 or frozen else min(cores, MOST)


def decode_by_processes(
    blocks: Iterable[Sequence[bytes]], shape: tuple[int, int, int], size: int | None, count: int
) -> Iterator[UInt8[np.ndarray, "n h w 3"]]:
    """`decode_pictures` of every block, in order, by `count` processes, for which some blocks are read ahead.

    Raises what `decode_pictures` raises.
    """
    children = [child for _ in range(count) if (child := _start()) is not None]
    free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    for child in children:
        free.put(child)

    def decode(block: Sequence[bytes]) -> UInt8[np.ndarray, "n h w 3"]:
        pixels = None
        if children:
            child = free.get()
            pixels = _ask(child, block, shape, size)
            free.put(child)
        return decode_pictures(block, shape, size) if pixels is None else pixels

    pool = ThreadPoolExecutor(max(1, len(children)), thread_name_prefix="decode")
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
            child.kill()
            child.communicate()


def _start() -> subprocess.Popen[bytes] | None:
    paths = [path for path in sys.path if isinstance(path, str)]  # Python passes over others too
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", CHILD, *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what is wrong comes up again where the block is decoded here
            start_new_session=True,  # Ctrl-C is for this process
        )
    except OSError:
        return None


def _ask(
    child: subprocess.Popen[bytes], block: Sequence[bytes], shape: tuple[int, int, int], size: int | None
) -> UInt8[np.ndarray, "n h w 3"] | None:
    """None where it gives no answer; it is of no use any more then."""
    assert child.stdin is not None
    assert child.stdout is not None
    # Comes back before the pixels. What is no answer, such as the output of a start-up file of Python, does not begin with it.
    sign = secrets.token_bytes(16)
    try:
        pickle.dump((sign, block, shape, size), child.stdin, protocol=5)
        child.stdin.flush()
        if child.stdout.read(len(sign)) == sign:
            pixels = child.stdout.read(len(block) * math.prod(shape))
            return np.frombuffer(pixels, np.uint8).reshape(len(block), *shape)
    except (OSError, ValueError):  # of pipes that are closed, and of fewer pixels
        pass
    child.kill()
    return None


def serve() -> None:
    """The life of such a process: blocks from stdin, their pixels to stdout, until stdin ends or something is wrong."""
    # It may be sent to all processes of a job, and is for the one that asks.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            sign, *question = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pixels = decode_pictures(*question)
        sys.stdout.buffer.write(sign)
        sys.stdout.buffer.write(pixels.data)
        sys.stdout.buffer.flush()
