"""Requests a second and their latency, against a real `kdhash serve` process on this machine.

    python benchmarks/serve.py photos.index                          # the model that the index remembers
    python benchmarks/serve.py photos.index --model student --clients 1 8 32 --seconds 5

Clients are threads of one process, each with a connection that is kept alive; they ask again as soon as they are answered.
Pictures are JPEGs of 256 x 256 pixels, 64 different ones; numbers are those of items. Every cell ends after --seconds or
--requests. Client and server share the cores of the machine, so that the server alone can do more than this.
"""

import argparse
import http.client
import io
import json
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

BOUNDARY = "kdhash-benchmark"


class Request(NamedTuple):
    method: str
    path: str
    body: bytes | None
    headers: dict[str, str]


class Cell(NamedTuple):
    """What one kind of request took with so many clients."""

    seconds: float
    milliseconds: list[float]
    batches: Counter[int]
    """batch size -> requests that were encoded in one of it"""


def picture_requests(count: int) -> list[Request]:
    """Uploads of different smooth pictures with some noise, as JPEG."""
    rng = np.random.default_rng(0)
    requests = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize(
            (256, 256), Image.Resampling.BICUBIC
        )
        noisy = np.clip(np.asarray(coarse, np.int16) + rng.integers(-12, 13, (256, 256, 3)), 0, 255).astype(
            np.uint8
        )
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, "JPEG", quality=85)
        head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="picture"; filename="a.jpg"\r\n\r\n'
        body = head.encode() + file.getvalue() + f"\r\n--{BOUNDARY}--\r\n".encode()
        requests.append(
            Request("POST", "/search", body, {"content-type": f"multipart/form-data; boundary={BOUNDARY}"})
        )
    return requests


def number_requests(port: int) -> list[Request]:
    items = json.loads(ask(connect(port), Request("GET", "/sample?count=64", None, {})))["items"]
    return [Request("GET", f"/similar/{item['number']}", None, {}) for item in items]


def connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=60)


def ask(connection: http.client.HTTPConnection, request: Request) -> bytes:
    """The body of the answer. Raises RuntimeError for anything but 200."""
    connection.request(request.method, request.path, request.body, request.headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{request.method} {request.path}: {answer.status} {body[:200]!r}")
    return body


def measure(port: int, requests: list[Request], clients: int, seconds: float, most: int) -> Cell:
    milliseconds: list[float] = []
    batches: Counter[int] = Counter()
    failures: list[Exception] = []
    lock, end = threading.Lock(), time.perf_counter() + seconds

    def work(seed: int) -> None:
        choose, connection = random.Random(seed), connect(port)
        try:
            while time.perf_counter() < end and len(milliseconds) < most:
                begun = time.perf_counter()
                body = ask(connection, choose.choice(requests))
                took = (time.perf_counter() - begun) * 1000
                with lock:
                    milliseconds.append(took)
                    batches[json.loads(body)["latency"]["batch"]] += 1
        except Exception as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return Cell(time.perf_counter() - begun, milliseconds, batches)


def row(kind: str, clients: int, cell: Cell) -> str:
    """A line of the table. Batch: mean and largest number of pictures that were encoded together."""
    cuts = statistics.quantiles(cell.milliseconds, n=100, method="inclusive")
    batch = "–"
    if any(cell.batches):
        runs = sum(count / size for size, count in cell.batches.items())
        batch = f"{len(cell.milliseconds) / runs:.1f} ({max(cell.batches)})"
    rate = len(cell.milliseconds) / cell.seconds
    return f"| {kind} | {clients} | {rate:,.0f} | {cuts[49]:.1f} | {cuts[98]:.1f} | {batch} |"


def start(arguments: list[str]) -> tuple[subprocess.Popen[str], int]:
    """A `kdhash serve` process that answers, and its port."""
    command = [sys.executable, "-m", "kdhash", "serve", *arguments, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if "open http" not in line:
        sys.exit(process.wait() or 1)
    print(line.strip(), file=sys.stderr)
    return process, int(urlsplit(line.split()[-1]).port or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures `kdhash serve`; prints a markdown table.")
    parser.add_argument("index", help="what is served; all further options of `kdhash serve` are passed on")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=5, help="at most, a cell (default 5)")
    parser.add_argument("--requests", type=int, default=5000, help="at most, a cell (default 5000)")
    args, serve = parser.parse_known_args()
    process, port = start([args.index, *serve])
    try:
        pictures, numbers = picture_requests(64), number_requests(port)
        print(
            "| query | clients | requests/s | p50 ms | p99 ms | batch: mean (largest) |\n|---|---:|---:|---:|---:|---:|"
        )
        for kind, requests in (("number", numbers), ("picture", pictures)):
            if (
                kind == "picture"
                and json.loads(ask(connect(port), Request("GET", "/info", None, {})))["model"] is None
            ):
                continue
            measure(port, requests, 2, min(1.0, args.seconds), args.requests)  # connections, caches
            for clients in args.clients:
                print(
                    row(kind, clients, measure(port, requests, clients, args.seconds, args.requests)),
                    flush=True,
                )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


if __name__ == "__main__":
    main()
