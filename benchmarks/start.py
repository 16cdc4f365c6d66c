"""Seconds from the start of the main job to a line of its output: with nothing kept, then with what the first start kept.

    python benchmarks/start.py --until 'student plain' --config configs/dmth_cifar10.py --config.data_dir=data \\
        --config.weights_dir=weights --config.cache_dir=runs/cache --config.teacher.rows='()' \\
        --config.student.rows="('plain',)" --config.student.schedule.log_every=1 --config.compilation_cache_dir=off

What stands after --until goes to kdhash.main, which gets workdirs beside each other in a temporary folder. Features that are not
in the cache yet would count too: start it twice.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds_until(pattern: str, arguments: list[str]) -> float:
    """Raises RuntimeError where the job ends before."""
    command = [sys.executable, "-u", "-m", "kdhash.main", *arguments]
    began, told = time.perf_counter(), []
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        for line in process.stdout or ():
            if re.search(pattern, line):
                return time.perf_counter() - began
            told.append(line)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    raise RuntimeError(f"no line with {pattern!r}; the last ones:\n{''.join(told[-5:])}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--until", required=True, metavar="PATTERN", help="a regular expression")
    parser.add_argument("--rounds", type=int, default=2, help="each of two starts")
    args, rest = parser.parse_known_args()
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for start in ("first", "second"):
                took = seconds_until(args.until, [*rest, "--workdir", str(Path(folder) / start)])
                print(f"{start} start: {took:.1f} s", flush=True)


if __name__ == "__main__":
    main()
