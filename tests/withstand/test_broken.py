"""What breaks between client and service: a scripted server on a raw socket answers, or hangs up."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest

from withstand import AsyncClient, Client, ClientError

STATE: dict[str, Any] = {
    "id": "0" * 16,
    "status": "running",
    "error": None,
    "links": {},
    "progress": {"images_done": 1, "images_total": 2, "eta_s": 3.0},
}
ID = STATE["id"]


def answer(status: str, body: object = None, **headers: object) -> bytes:
    """An answer with a JSON body."""
    content = json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in (named | {"content-length": len(content)}).items()]
    return f"HTTP/1.1 {status}\r\nconnection: close\r\n{chr(10).join(lines)}\r\n\r\n".encode() + content


def events(*states: tuple[str, str], cut: bytes = b"") -> bytes:
    """A stream of states with their ids, cut off in the middle of what follows."""
    sent = [f"event: progress\ndata: {json.dumps(STATE | {'status': status})}\nid: {key}\n\n" for key, status in states]
    body = b"".join(f"{len(each):x}\r\n{each}\r\n".encode() for each in sent)
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + body + cut


HANGS_UP = b""
BUSY = answer("503 Service Unavailable", retry_after="0")
DONE = events(("c", "done"), cut=b"0\r\n\r\n")


@contextmanager
def scripted(answers: Sequence[bytes]) -> Iterator[tuple[str, list[str]]]:
    """Answer each connection with the next bytes, and hang up; gives the address and the requests received."""
    received: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for each in answers:
                try:
                    connection, _ = listener.accept()
                except OSError:  # the test has ended
                    return
                with connection:
                    received.append(read_request(connection))
                    connection.sendall(each)
                    connection.shutdown(socket.SHUT_WR)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", received
        listener.shutdown(socket.SHUT_RDWR)  # whoever accepts wakes up
        thread.join()


def read_request(connection: socket.socket) -> str:
    """Read a request up to the end of its body."""
    text = b""
    while b"\r\n\r\n" not in text:
        text += connection.recv(65536)
    head, _, body = text.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.lower().splitlines() if line.startswith(b"content-length")]
    while len(body) < sum(lengths):
        body += connection.recv(65536)
    return head.decode()


def header(request: str, name: str) -> str | None:
    found = [line.partition(": ")[2] for line in request.splitlines() if line.lower().startswith(f"{name.lower()}:")]
    return found[0] if found else None


@pytest.mark.parametrize(
    "first",
    [HANGS_UP, BUSY, answer("429 Too Many Requests"), answer("502 Bad"), answer("504 Late")],
    ids=["hangs up", "503", "429", "502", "504"],
)
def test_what_may_be_repeated_is(first: bytes) -> None:
    with scripted([first, answer("200 OK", STATE)]) as (url, _), Client(url) as client:
        assert client.evaluation(ID)["status"] == "running"


def test_a_submission_is_repeated_under_the_same_key_of_its_own() -> None:
    script = [HANGS_UP, BUSY, answer("202 Accepted", STATE), answer("202 Accepted", STATE)]
    with scripted(script) as (url, received), Client(url) as client:
        client.submit({})
        client.submit({})
    *first, second = [header(request, "Idempotency-Key") for request in received]
    assert len(set(first)) == 1 and None not in first
    assert second not in {None, first[0]}


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.control_evaluation(ID, "pause"),
        lambda client: client.predict("tiny", b"picture"),
        lambda client: client.control_queue("pause"),
    ],
    ids=["pause", "predict", "pause the queue"],
)
@pytest.mark.parametrize("first", [HANGS_UP, BUSY], ids=["hangs up", "503"])
def test_what_may_not_be_repeated_is_not(ask: Callable[[Client], object], first: bytes) -> None:
    with scripted([first, answer("200 OK", STATE)]) as (url, received), Client(url) as client:
        with pytest.raises(ClientError, match=r"503|no answer"):
            ask(client)
        assert len(received) == 1


def test_a_refusal_is_not_repeated() -> None:
    problem = answer("409 Conflict", {"detail": "no", "status": 409}, content_type="application/problem+json")
    with scripted([problem, answer("200 OK", STATE)]) as (url, received), Client(url) as client:
        with pytest.raises(ClientError, match=r"^409: no$") as refused:
            client.cancel_evaluation(ID)
        assert (refused.value.problem["detail"], len(received)) == ("no", 1)


def test_retry_after_is_waited_for() -> None:
    busy = answer("503 Service Unavailable", retry_after="1")
    with scripted([busy, answer("200 OK", STATE)]) as (url, _), Client(url) as client:
        begun = time.monotonic()
        client.evaluation(ID)
        assert 1 <= time.monotonic() - begun < 5


@pytest.mark.parametrize("retry_after", ["3600", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_nobody_waits_longer_than_allowed(retry_after: str) -> None:
    busy = answer("503 Service Unavailable", retry_after=retry_after)
    with scripted([busy]) as (url, _), Client(url) as client:
        begun = time.monotonic()
        with pytest.raises(ClientError, match="503") as gave_up:
            client.evaluation(ID)
        assert gave_up.value.retry_after_s >= 3600
        assert time.monotonic() - begun < 1


def test_repeating_ends_when_patience_does() -> None:
    with scripted([BUSY] * 100) as (url, received), Client(url, patience_s=0.5) as client:
        begun = time.monotonic()
        with pytest.raises(ClientError, match="503"):
            client.evaluation(ID)
        assert time.monotonic() - begun < 2
        assert 1 < len(received) < 100


STREAMS = [
    ([events(("a", "pending"), ("b", "running"), cut=b"40\r\nevent: prog"), DONE], ["pending", "running"]),
    ([events(("b", "running"), cut=b"0\r\n\r\n"), HANGS_UP, BUSY, DONE], ["running"]),
    ([HANGS_UP, DONE], []),
]


@pytest.mark.parametrize(("script", "before"), STREAMS, ids=["cut off", "closed, then away", "before the first event"])
def test_a_stream_goes_on_after_the_last_event(script: list[bytes], before: list[str]) -> None:
    with scripted(script) as (url, received), Client(url) as client:
        assert [each["status"] for each in client.watch(ID)] == [*before, "done"]
    assert header(received[0], "Last-Event-ID") is None
    assert {header(request, "Last-Event-ID") for request in received[1:]} == {"b" if before else None}


def test_a_stream_that_never_comes_back_is_an_error() -> None:
    with scripted([events(("a", "running"))] + [HANGS_UP] * 50) as (url, _), Client(url, patience_s=0.3) as client:
        watched = client.watch(ID)
        assert next(watched)["status"] == "running"
        with pytest.raises(ClientError, match="no answer"):
            next(watched)


def test_the_client_for_asyncio_repeats_too() -> None:
    async def use(url: str) -> None:
        async with AsyncClient(url) as client:
            assert (await client.evaluation(ID))["status"] == "running"
            assert [each["status"] async for each in client.watch(ID)] == ["running", "done"]
            with pytest.raises(ClientError, match="503"):
                await client.control_evaluation(ID, "retry")

    script = [BUSY, answer("200 OK", STATE), events(("a", "running")), HANGS_UP, DONE, BUSY]
    with scripted(script) as (url, received):
        asyncio.run(use(url))
    assert header(received[4], "Last-Event-ID") == "a"
