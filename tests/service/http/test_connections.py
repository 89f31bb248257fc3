"""What a client may send, and how slowly, before anything of it is parsed."""

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from service.http.connection import MOST_HEADERS, ConnectionLimits
from service.settings import Settings
from tests.server import Server, serving, until
from tests.service.health import require_health
from tests.service.http.raw import connect, exchange, head, read
from tests.service.pictures import DISC, URL

TIMEOUT_S = 2.0
CONNECTIONS = 12
OF_ONE_ADDRESS = 8


@pytest.fixture(scope="module")
def impatient(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits two seconds, and has few connections."""
    changed = {
        "data_dir": tmp_path_factory.mktemp("impatient"),
        "receive_timeout_s": TIMEOUT_S,
        "max_connections": CONNECTIONS,
        "max_address_connections": OF_ONE_ADDRESS,
    }
    with serving(settings.model_copy(update=changed)) as running:
        yield running


@pytest.mark.parametrize(
    "data",
    [
        head("GET /healthz", "X: " + "a" * 60_000_000),
        head("GET /healthz", *(f"X-{number}: {'a' * 100}" for number in range(100_000))),
        head("GET /healthz", *("a:" for _ in range(MOST_HEADERS + 1))),
        head("GET /" + "a" * 10_000_000),
        head("GET /" + "a" * 10_000_000)[:-40],
        head("POST /v2/repository/index", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\nT: " + b"a" * 10_000_000,
        head("POST /v2/repository/index", "Transfer-Encoding: chunked") + b"2;" + b"a" * 10_000_000 + b"\r\n{}\r\n",
    ],
    ids=["one header", "much", "many", "address", "endless address", "trailer", "chunk extension"],
)
def test_a_head_without_end_ends_at_once_and_holds_nobody_up(server: Server, data: bytes) -> None:
    answers: list[bytes] = []
    require_health(server.url, lambda: answers.append(exchange(server, data)))
    assert {each[:12] for each in answers} <= {b"HTTP/1.1 431", b""}, "lost where the client goes on sending"


def test_a_head_that_is_refused_is_a_problem(server: Server) -> None:
    answer = exchange(server, head("GET /healthz", "X: " + "a" * 70_000))
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"content-type: application/problem+json" in answer
    assert b"at most 65536 bytes" in answer


def test_a_broken_head_is_a_problem(server: Server) -> None:
    answer = exchange(server, b"nonsense\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"content-type: application/problem+json" in answer


def test_a_large_head_that_is_allowed_is_answered(server: Server) -> None:
    headers = {f"X-{number}": "a" * 600 for number in range(80)}
    assert server.http.get("/healthz", headers=headers).status_code == 200


def trickle(connection: socket.socket, data: bytes, pause_s: float = 0.1) -> bytes:
    """Send a byte at a time until the server closes."""
    with suppress(ConnectionResetError, BrokenPipeError):
        for place in range(len(data)):
            connection.sendall(data[place : place + 1])
            time.sleep(pause_s)
    return read(connection)


@pytest.mark.parametrize(
    ("at_once", "slowly"),
    [
        (b"", b""),
        (b"", head("GET /healthz", "X: " + "a" * 1000)),
        (b"\r\n", b"\r\n" * 500),
        (head(f"POST {URL}", "Content-Type: image/png", "Content-Length: 1000"), b""),
        (head(f"POST {URL}", "Content-Type: image/png", "Content-Length: 1000"), b"a" * 1000),
        (head(f"POST {URL}", "Content-Type: image/png", "Transfer-Encoding: chunked"), b"1\r\na\r\n" * 200),
        (head("POST /nothing", "Content-Length: 100000000"), b"a" * 1000),
        (head("POST /nothing", "Content-Length: 100000000"), b""),
    ],
    ids=[
        "nothing",
        "head",
        "empty lines",
        "no body",
        "body",
        "chunks",
        "body behind an answer",
        "no body behind an answer",
    ],
)
def test_what_comes_too_slowly_is_given_up(impatient: Server, at_once: bytes, slowly: bytes) -> None:
    began = time.monotonic()
    with connect(impatient) as connection:
        connection.sendall(at_once)
        trickle(connection, slowly)
    assert time.monotonic() - began < TIMEOUT_S + 6


def test_a_slow_body_is_told_so(impatient: Server) -> None:
    with connect(impatient) as connection:
        connection.sendall(head(f"POST {URL}", "Content-Type: image/png", "Content-Length: 1000") + b"a")
        answer = read(connection)
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"content-type: application/problem+json" in answer


def test_a_body_that_comes_fast_enough_may_take_longer(impatient: Server) -> None:
    with connect(impatient) as connection:
        connection.sendall(head("POST /v2/repository/index", "Content-Length: 60000", "Connection: close") + b"{")
        for _ in range(15):
            time.sleep(0.3)
            connection.sendall(b" " * 3999)
        connection.sendall(b" " * (60_000 - 15 * 3999 - 2) + b"}")
        assert read(connection).startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_read_is_dropped(impatient: Server) -> None:
    with connect(impatient) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(600):  # answers that fill all buffers
            with suppress(TimeoutError, ConnectionResetError, BrokenPipeError):
                connection.settimeout(0.05)
                connection.sendall(head("GET /static-offline-docs/swagger-ui-bundle.js"))
        connection.settimeout(20)
        until(lambda: connections(impatient) == 0, TIMEOUT_S + 8)


def connections(server: Server) -> int:
    """Established connections to the server, from the kernel's table."""
    port = f":{httpx.URL(server.url).port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[1].endswith(port) and line.split()[3] == "01" for line in lines)


def test_an_event_stream_is_not_slow(impatient: Server) -> None:
    with connect(impatient) as connection:
        connection.sendall(head(f"POST {URL}", "Content-Type: image/png", f"Content-Length: {len(DISC)}") + DISC)
        assert connection.recv(2**16).startswith(b"HTTP/1.1 200")


def test_one_address_does_not_get_all_connections(impatient: Server) -> None:
    with ExitStack() as held:
        opened = [held.enter_context(connect(impatient)) for _ in range(OF_ONE_ADDRESS)]
        until(lambda: connections(impatient) >= OF_ONE_ADDRESS)
        refused = exchange(impatient, b"")
        assert refused.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"retry-after: 1\r\n" in refused
        assert b"127.0.0.1 has 8 connections" in refused
        with socket.create_connection(opened[0].getpeername(), source_address=("127.0.0.2", 0), timeout=20) as other:
            other.sendall(head("GET /healthz", "Connection: close"))
            assert read(other).startswith(b"HTTP/1.1 200")
    until(lambda: exchange(impatient, head("GET /healthz", "Connection: close")).startswith(b"HTTP/1.1 200"))


def test_connections_in_all_are_limited(impatient: Server) -> None:
    address = httpx.URL(impatient.url)
    with ExitStack() as held:
        for number in range(CONNECTIONS):
            source = (f"127.0.0.{3 + number % 3}", 0)
            held.enter_context(socket.create_connection((address.host, address.port), source_address=source))
        assert b"HTTP/1.1 503" in exchange(impatient, b"")
    until(lambda: exchange(impatient, head("GET /healthz", "Connection: close")).startswith(b"HTTP/1.1 200"))


def test_there_are_more_descriptors_than_connections() -> None:
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    limits = ConnectionLimits.of(Settings(max_connections=10**6, max_address_connections=10**6))
    assert limits.in_all <= descriptors // 2
    assert limits.of_one_address <= limits.in_all


def test_requests_that_wait_behind_another_are_limited(fresh: Server) -> None:
    with connect(fresh) as connection:
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(head("GET /healthz") * 100_000)
        assert read(connection).count(b"HTTP/1.1 200") < 20_000
    assert httpx.get(f"{fresh.url}/healthz").status_code == 200
