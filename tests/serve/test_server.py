"""Real processes: how the server starts, and that it answers all it has been asked before it ends."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kdhash.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30


def ask(connection, method="GET", path="/similar/3?k=3", body=None, headers=None):
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


class Clients:
    """Threads that ask without pause until the server refuses new connections. `lost` tells requests without a whole answer."""

    def __init__(self, port, count, keep_alive):
        self.port, self.keep_alive = port, keep_alive
        self.answered, self.lost = 0, []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.work, args=(number,)) for number in range(count)]
        for thread in self.threads:
            thread.start()

    def work(self, number):
        text = json.dumps({"text": f"client {number}", "k": 5})
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
            try:
                connection.connect()
            except OSError:
                return  # nobody listens any more: nothing was asked
            try:
                more = True
                while more:
                    connection.request("POST", "/search", text, {"content-type": "application/json"})
                    answer = connection.getresponse()
                    body = json.loads(answer.read())
                    with self.lock:
                        self.answered += 1
                        if answer.status != 200 or len(body["results"]) != 5:
                            self.lost.append(body)
                    more = self.keep_alive and not answer.will_close
            except (OSError, http.client.HTTPException, ValueError) as error:
                with self.lock:
                    self.lost.append(repr(error))
            finally:
                connection.close()

    def join(self):
        for thread in self.threads:
            thread.join(SECONDS)
        assert not any(thread.is_alive() for thread in self.threads)


@pytest.mark.parametrize("keep_alive", [True, False], ids=["kept alive", "a connection each"])
def test_sigterm_under_load_loses_no_request(start, index_folder, keep_alive):
    process, port = start("-m", "tests.serve.serving", index_folder, 0.02)
    clients = Clients(int(port), 8, keep_alive)
    deadline = time.monotonic() + SECONDS
    while clients.answered < 30 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    clients.join()
    assert process.wait(SECONDS) == 0
    assert clients.lost == []
    assert clients.answered >= 30
    assert process.stderr.read() == ""


def test_connections_in_the_queue_are_answered(start, index_folder):
    """Clients that have connected and asked, and that the server has not accepted yet when it is told to end."""
    process, port = start("-m", "tests.serve.serving", index_folder, 0.0)
    process.send_signal(signal.SIGSTOP)
    connections = [socket.create_connection(("127.0.0.1", int(port)), timeout=SECONDS) for _ in range(20)]
    for connection in connections[:10]:
        connection.sendall(b"GET /items/3 HTTP/1.1\r\nhost: localhost\r\n\r\n")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    for connection in connections[10:]:
        connection.sendall(b"GET /items/3 HTTP/1.1\r\nhost: localhost\r\n\r\n")
    for connection in connections:
        with connection, connection.makefile("rb") as answer:
            text = answer.read()
            assert text.startswith(b"HTTP/1.1 200")
            assert b"connection: close" in text
            assert b"digits/3.png" in text
    assert process.wait(SECONDS) == 0


def test_answers_are_sent_at_once(start, index_folder):
    """Headers and body are two packets: without TCP_NODELAY the second one waits 40 ms for the first to be acknowledged."""
    _, port = start("-m", "tests.serve.serving", index_folder, 0.0)
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=SECONDS)
    took = []
    for _ in range(60):  # the first acknowledgements of a connection come at once
        begun = time.monotonic()
        assert ask(connection, path="/healthz")[0] == 200
        took.append(time.monotonic() - begun)
    assert min(took[-20:]) < 0.03


def test_a_slow_request_is_waited_for(start, index_folder):
    process, port = start("-m", "tests.serve.serving", index_folder, 1.0)
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=SECONDS)
    body = json.dumps({"text": "slow"})
    connection.request("POST", "/search", body, {"content-type": "application/json"})
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    answer = connection.getresponse()
    assert (answer.status, len(json.loads(answer.read())["results"])) == (200, 20)
    assert process.wait(SECONDS) == 0


def test_the_command_tells_its_address_and_ends_with_0(start, index_folder):
    process, line = start("-m", "kdhash", "serve", index_folder, "--port", "0", "--no-model")
    assert line.startswith("kdhash: 120 items, 64 bits, no model; open http://127.0.0.1:")
    address = urlsplit(line.split()[-1])
    connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=SECONDS)
    assert ask(connection)[0] == 200
    assert ask(connection, headers={"host": "evil.example"})[0] == 421
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 0
    assert process.stderr.read() == ""


def test_a_warning_where_others_can_reach_it(start, index_folder):
    process, line = start("-m", "kdhash", "serve", index_folder, "--port", "0", "--host", "0.0.0.0")
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(line.split()[-1]).port, timeout=SECONDS)
    assert ask(connection, headers={"host": "pictures.example"})[0] == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == 0
    warnings = process.stderr.read()
    assert "no password" in warnings
    assert "the index remembers no model" in warnings


def test_a_port_that_is_taken(index_folder, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", str(index_folder), "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another with --port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere"),
        (["{index}", "--port", "70000"], "--port is 70000"),
        (["{index}", "--threads", "0"], "--threads is 0"),
        (["{index}", "--batch-size", "0"], "--batch-size is 0"),
        (["{index}", "--max-upload", "0"], "--max-upload is 0"),
        (["{index}", "--model", "nowhere"], "nowhere"),
        (["{index}", "--model", "nowhere", "--no-model"], "give one"),
        (["{index}", "--no-model", "--engine", "ivf"], "kdhash index ivf"),
        (["{index}", "--host", "999.1.1.1"], "cannot listen"),
    ],
)
def test_what_cannot_be_served_ends_with_2_and_one_line(index_folder, capsys, arguments, says):
    given = [argument.format(index=index_folder) for argument in arguments]
    assert main(["serve", *given, *([] if "--port" in given else ["--port", "0"])]) == 2
    errors = capsys.readouterr().err
    assert says in errors
    assert errors.startswith("kdhash: ")
    assert errors.count("\n") == 1


def test_a_missing_extra_is_named(index_folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", str(index_folder)]) == 2
    assert capsys.readouterr().err == "kdhash: kdhash serve needs uvicorn: pip install 'kdhash[serve]'\n"


def test_help_loads_nothing_heavy():
    heavy = ["jax", "flax", "numba", "pyarrow", "faiss", "starlette", "uvicorn", "tensorflow_datasets", "PIL"]
    script = f"import sys, kdhash.serve.serve_cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "[]\n"
