"""SIGTERM: what a machine sends before it goes away. A run saves what it has and leaves, instead of being killed."""

import os
import signal
import sys
import threading
import time

_asked = threading.Event()


class Stopped(Exception):
    """The run was asked to stop, and did. The message says what it has saved."""


def listen(grace_seconds: float, exit_code: int) -> None:
    """From now on SIGTERM does not end this process: `asked` says that it came.

    A process that is still there `grace_seconds` later, in the middle of something long, leaves with `exit_code`: everything here
    survives even SIGKILL, so that nothing but the last minutes is lost. To be called once, by the main thread, after
    jax.distributed.initialize, which has a handler of its own.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.siginterrupt(signal.SIGTERM, False)
    # A Python handler waits until the main thread is back from XLA; what is written here is there at once.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        while signal.SIGTERM not in os.read(reader, 64):
            pass
        _asked.set()
        _say(f"SIGTERM: stopping, within {grace_seconds:g} s")
        time.sleep(grace_seconds)
        _say(
            f"SIGTERM: not ready after {grace_seconds:g} s, left as it is; the same command goes on from what was saved before"
        )
        sys.stdout.flush()
        os._exit(exit_code)

    threading.Thread(target=watch, name="sigterm", daemon=True).start()


def asked() -> bool:
    """Whether SIGTERM came."""
    return _asked.is_set()


def check() -> None:
    """Raises Stopped where SIGTERM came: between two pieces of work whose results are kept, or are soon made again."""
    if asked():
        raise Stopped("everything finished so far is kept")


def _say(text: str) -> None:
    print(f"kdhash: {text}", file=sys.stderr, flush=True)
