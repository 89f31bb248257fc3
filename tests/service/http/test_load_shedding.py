"""A prediction without room is refused by its header alone, and the connection goes on."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import service.http.load_shedding
from service.settings import Settings
from tests.server import Server, serving, until
from tests.service.held import Held
from tests.service.http.raw import connect, exchange, head, read
from tests.service.pictures import DISC, URL, labels, refusal

POST = f"POST {URL}"
SIZE = f"Content-Length: {len(DISC)}"
LAST = head("GET /healthz", "Connection: close")
MOST = 4


@pytest.fixture
def full(settings: Settings, tmp_path: Path, held: Held) -> Iterator[Server]:
    """A server whose queue is full until `held` lets go."""
    few = settings.model_copy(update={"data_dir": tmp_path, "queue_images": MOST, "max_images": 1})
    held.release.set()
    with serving(few) as running, ThreadPoolExecutor(32) as threads:
        assert labels(running.http.post(URL, content=DISC)) == ["disc"]
        held.release.clear()
        waiting: list[Future[httpx.Response]] = []

        def is_full() -> bool:
            waiting.append(threads.submit(running.http.post, URL, content=DISC))
            return running.service.scheduler.predictors["cpu"].waiting >= MOST

        until(is_full)
        yield running
        held.release.set()
        assert {each.result().status_code for each in waiting} <= {200, 503}


def statuses(received: bytes) -> list[int]:
    return [int(each) for each in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def test_who_waits_before_the_body_need_not_send_it(full: Server) -> None:
    with connect(full) as connection:
        connection.sendall(head(POST, SIZE, "Expect: 100-continue", "X-Request-ID: mine-1"))
        answer = connection.recv(2**16)
    assert statuses(answer) == [503], "and no 100"
    for header in (b"retry-after: ", b"x-request-id: mine-1\r\n", b"x-content-type-options: nosniff\r\n"):
        assert header in answer.lower()


def test_an_error_as_any_other(full: Server) -> None:
    told = refusal(full.http.post(URL, content=DISC), 503)
    assert "pictures are waiting" in told["detail"] and "try again later" in told["detail"]
    page = full.http.get("/metrics").text
    assert re.search(r'withstand_refusals_total\{cause="queue full"\} [1-9]', page)
    assert re.search(r'request_seconds_count\{method="POST",route="none",status="503"\} [1-9]', page)


@pytest.mark.parametrize("pause_s", [0.0, 0.3])
def test_the_connection_goes_on_behind_a_body_that_nobody_reads(
    full: Server, pause_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.http.load_shedding, "AT_ONCE", 50 if not pause_s else 0)
    monkeypatch.setattr(service.http.load_shedding, "PAUSE_S", pause_s)
    large = b"x" * 3_000_000
    began = time.monotonic()
    sent = head(POST, f"Content-Length: {len(large)}") + large + head(POST, SIZE) + DISC + LAST
    assert statuses(exchange(full, sent)) == [503, 503, 200]
    assert time.monotonic() - began >= 2 * pause_s


def test_answers_keep_the_order_of_their_requests(full: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.http.load_shedding, "AT_ONCE", 0)
    monkeypatch.setattr(service.http.load_shedding, "PAUSE_S", 0.2)
    sent = head("GET /healthz") + head(POST, SIZE) + DISC + head("GET /healthz") + head(POST, SIZE) + DISC + LAST
    assert statuses(exchange(full, sent)) == [200, 503, 200, 503, 200]


def test_who_asks_for_the_end_of_the_connection_gets_it(full: Server) -> None:
    with connect(full) as connection:
        connection.sendall(head(POST, SIZE, "Connection: close"))
        answer = read(connection)
    assert statuses(answer) == [503] and b"\r\nconnection: close\r\n" in answer


def test_who_leaves_before_the_refusal_leaves_nothing(
    full: Server, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.http.load_shedding, "AT_ONCE", 0)
    with connect(full) as connection:
        connection.sendall(head(POST, SIZE) + DISC)
        assert full.http.get("/healthz").status_code == 200, "held back, it holds nobody up"
    time.sleep(1.2 * service.http.load_shedding.PAUSE_S)
    held.release.set()
    until(lambda: not full.service.scheduler.predictors["cpu"].waiting)
    assert labels(full.http.post(URL, content=DISC)) == ["disc"]


def test_what_is_no_prediction_passes(full: Server) -> None:
    assert full.http.get("/v1/models").status_code == 200
    assert full.http.get(URL).status_code == 405
