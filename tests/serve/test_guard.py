import asyncio

import pytest
from starlette.responses import PlainTextResponse

from kdhash.serve.guard import DISCARDED, HEADERS, LOOPBACK, Guard, host_name
from kdhash.serve.refusals import Limits
from kdhash.serve.serve_cli import allowed_hosts, is_loopback
from tests.serve.stand_ins import ProjectionModel


@pytest.mark.parametrize("path", ["/", "/static/page.js", "/info", "/pictures/1", "/items/999", "/nowhere"])
def test_every_answer_carries_the_safe_headers(client, path):
    headers = client.get(path).headers
    assert {name: headers[name] for name in HEADERS} == HEADERS
    policy = headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("LOCALHOST:80", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("[::1]", 200),
        ("evil.example", 421),
        ("evil.example:8000", 421),
        ("localhost.evil.example", 421),
        ("localhost:8000.evil.example", 421),
        ("127.0.0.2", 421),
        ("[::1]:x", 421),
        ("", 421),
    ],
)
def test_only_the_own_names_are_answered(make_client, host, status):
    client = make_client(hosts=LOOPBACK)
    answer = client.get("/info", headers={"host": host})
    assert answer.status_code == status
    assert status == 200 or "--allow-host" in answer.json()["message"]


@pytest.mark.parametrize(
    ("host", "more", "names"),
    [
        ("127.0.0.1", [], {*LOOPBACK}),
        ("127.0.0.5", ["Box.local"], {*LOOPBACK, "127.0.0.5", "box.local"}),
        ("::1", [], {*LOOPBACK}),
        ("localhost", [], {*LOOPBACK}),
        ("0.0.0.0", ["pictures.example"], {"pictures.example"}),
    ],
)
def test_names_for_an_address(host, more, names):
    assert set(allowed_hosts(host, more)) == names
    assert is_loopback(host) == (host != "0.0.0.0")


def test_other_addresses_answer_to_any_name():
    assert allowed_hosts("0.0.0.0", []) is None
    assert host_name("a:80") == host_name("A") == "a"


def test_an_upload_that_says_it_is_too_large_is_refused(make_client, picture):
    client = make_client(ProjectionModel(), limits=Limits(upload=300))
    answer = client.post("/search", files={"picture": ("a.png", picture)})
    assert answer.status_code == 413
    assert "smaller" in answer.json()["message"]


class Sender:
    """An ASGI client that sends `chunks` of 100 bytes, and counts what the app has taken."""

    def __init__(self, chunks, headers=(), seconds=0.0):
        self.chunks, self.headers, self.seconds, self.taken, self.sent = chunks, headers, seconds, 0, []

    async def receive(self):
        await asyncio.sleep(self.seconds)
        self.taken += 1
        return {"type": "http.request", "body": b"x" * 100, "more_body": self.taken < self.chunks}

    async def send(self, message):
        self.sent.append(message)

    def ask(self, guard):
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/search",
            "raw_path": b"/search",
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json"), *self.headers],
        }
        asyncio.run(guard(scope, self.receive, self.send))
        return self.sent[0]["status"] if self.sent else None


@pytest.mark.parametrize(
    ("chunks", "headers", "status", "taken"),
    [
        (11, (), 413, 11),  # no length is given: counted as it comes
        (10**9, (), 413, 10 * DISCARDED + 1),  # and not read for ever
        (10**9, ((b"content-length", b"4001"),), 413, 0),
        (10**9, ((b"content-length", b"9" * 5000),), 413, 0),
        (1, ((b"content-length", b"-1"),), 413, 0),
        (10, (), 400, 10),
    ],
)
def test_the_size_of_a_body_is_checked_while_it_comes(make_client, chunks, headers, status, taken):
    guard = make_client(limits=Limits(upload=1000)).app
    sender = Sender(chunks, headers)
    assert sender.ask(guard) == status
    assert sender.taken == taken


def test_a_body_that_does_not_arrive_is_given_up(make_client):
    guard = make_client(limits=Limits(upload_seconds=0.05)).app
    assert Sender(100, seconds=0.03).ask(guard) == 408


def test_too_many_requests_at_once_are_sent_away():
    async def slow(scope, receive, send):
        await asyncio.sleep(0.05)
        await PlainTextResponse("done")(scope, receive, send)

    async def ask_three():
        guard = Guard(slow, None, Limits(requests=2))
        answers = []

        async def ask():
            async def send(message):
                if message["type"] == "http.response.start":
                    answers.append((message["status"], dict(message["headers"]).get(b"retry-after")))

            await guard({"type": "http", "headers": []}, None, send)

        await asyncio.gather(ask(), ask(), ask())
        return answers, guard.answering

    answers, left = asyncio.run(ask_three())
    assert answers == [(503, b"1"), (200, None), (200, None)]
    assert left == 0


def test_a_draining_server_says_so_and_closes_its_connections(client):
    client.app.draining = True
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.headers["connection"] == "close"
    assert client.get("/info").status_code == 200
    client.app.draining = False
    assert client.get("/healthz").json() == {"status": "ok"}


def test_a_client_that_leaves_is_no_failure(make_client, caplog):
    guard = make_client().app

    class Leaver(Sender):
        async def receive(self):
            return {"type": "http.disconnect"}

    assert Leaver(1).ask(guard) in (None, 400)
    assert caplog.text == ""
