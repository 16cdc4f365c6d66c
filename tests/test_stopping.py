"""SIGTERM is noted at once, and nobody stays longer than the grace period. (Whole runs: tests/processes/test_stops.py.)"""

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import time
from kdhash import stopping

stopping.listen({grace}, 75)
print("ready", flush=True)
while not stopping.asked():
    time.sleep(0.01)
try:
    stopping.check()
except stopping.Stopped as stopped:
    print(stopped, flush=True)
time.sleep({stays})
"""


@pytest.mark.parametrize(("grace", "stays", "code"), [(20, 0, 0), (0.3, 20, 75)])
def test_sigterm_is_noted_and_the_grace_period_kept(grace, stays, code):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(grace=grace, stays=stays)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == code
    assert output == "everything finished so far is kept\n"
    assert f"SIGTERM: stopping, within {grace} s" in errors
    assert ("not ready after 0.3 s" in errors) == bool(code)
