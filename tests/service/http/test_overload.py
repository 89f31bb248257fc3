"""Clients that leave, keys that ask for too much, and what is counted."""

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest

from common import text_sha256
from common.cores import cores
from service.settings import Settings
from tests.server import Server, serving, until
from tests.service.held import Held
from tests.service.pictures import DISC, SQUARE, URL, labels, refusal


@pytest.fixture
def server(settings: Settings, tmp_path: Path) -> Server:
    with serving(settings.model_copy(update={"data_dir": tmp_path, "key_images": 2})) as running:
        yield running


def sample(server: Server, name: str, **labels: str) -> float:
    """Read one number of the metrics page; 0 where it is not there yet."""
    for line in server.http.get("/metrics").text.splitlines():
        found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if found and found[1] == name and dict(re.findall(r'(\w+)="([^"]*)"', found[2] or "")) == labels:
            return float(found[3])
    return 0.0


def count(server: Server, outcome: str) -> float:
    return sample(server, "withstand_predictions_total", model="tiny", version="1", outcome=outcome)


def block(server: Server, held: Held) -> None:
    """Load the model, then let nothing through it."""
    held.release.set()
    assert labels(server.http.post(URL, content=DISC)) == ["disc"]
    held.release.clear()
    held.busy.clear()


def test_a_client_that_leaves_is_dropped_before_the_forward(server: Server, held: Held, forwarded: list[int]) -> None:
    block(server, held)
    predictor = server.service.scheduler.predictors["cpu"]
    with ThreadPoolExecutor(4) as threads:
        stay = [threads.submit(server.http.post, URL, content=DISC) for _ in range(2)]
        until(lambda: sample(server, "withstand_running_images", device="cpu") >= min(2, cores()))
        until(held.busy.is_set)
        address = httpx.URL(server.url)
        with socket.create_connection((address.host, address.port)) as leaves:
            head = f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(SQUARE)}\r\n\r\n"
            leaves.sendall(head.encode() + SQUARE)
            until(lambda: predictor.waiting)
        until(lambda: count(server, "disconnected") == 1)
        held.release.set()
        assert [labels(each.result()) for each in stay] == [["disc"], ["disc"]]
    until(lambda: not predictor.waiting)
    assert sum(forwarded) == 1 + 1 + 2, "the warm-up, the first, and the two that stayed"
    assert count(server, "ok") == 3


def test_a_key_over_its_limit_is_refused_alone(server: Server, held: Held) -> None:
    block(server, held)
    greedy, modest = {"X-API-Key": "greedy"}, {"X-API-Key": "modest"}
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(server.http.post, URL, content=DISC, headers=greedy) for _ in range(2)]
        until(lambda: server.service.scheduler._of_key[text_sha256("greedy")[:16]] == 2)
        refused = server.http.post(URL, content=DISC, headers=greedy)
        assert "this API key would have 3 pictures waiting, at most 2 are allowed" in refusal(refused, 429)["detail"]
        assert refused.headers["retry-after"] == "1"
        other = threads.submit(server.http.post, URL, content=SQUARE, headers=modest)
        until(lambda: server.service.scheduler._of_key[text_sha256("modest")[:16]] == 1)
        held.release.set()
        assert labels(other.result()) == ["square"]
        assert [labels(each.result()) for each in waiting] == [["disc"], ["disc"]]
    assert sample(server, "withstand_refusals_total", cause="key over its limit") == 1
    assert labels(server.http.post(URL, content=DISC, headers=greedy)) == ["disc"]


def test_everything_is_counted_by_what_became_of_it(server: Server) -> None:
    assert labels(server.http.post(URL, content=DISC)) == ["disc"]
    files = [("file", ("good", DISC)), ("file", ("bad", b"no picture"))]
    assert server.http.post(URL, files=files).status_code == HTTPStatus.OK
    refusal(server.http.post("/v1/models/nowhere/predict", content=DISC), 404)
    assert (count(server, "ok"), count(server, "invalid")) == (2, 1)
    assert sample(server, "withstand_batch_images_sum", model="tiny") == 2
    assert sample(server, "withstand_preprocess_seconds_count", model="tiny") == 2
    route = "/v1/models/{name}/predict"
    assert sample(server, "withstand_request_seconds_count", method="POST", route=route, status="200") == 2
    assert sample(server, "withstand_request_seconds_count", method="POST", route=route, status="404") == 1
    assert sample(server, "withstand_loaded_models", device="cpu") == 1
    assert sample(server, "withstand_shards", status="done") == 0


def test_answers_tell_their_time_and_can_be_found_again(server: Server) -> None:
    sent = {"X-Request-ID": "mine-1", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    answer = server.http.post(URL, content=DISC, headers=sent)
    assert {name: answer.headers[name] for name in sent} == sent
    stages = re.fullmatch(
        r"queue;dur=([\d.]+), preprocess;dur=([\d.]+), forward;dur=([\d.]+)", answer.headers["server-timing"]
    )
    assert stages
    assert all(0 <= float(each) < 60_000 for each in stages.groups())
    for hostile in ("a b", "x" * 500, "<script>"):
        own = server.http.post(URL, content=DISC, headers={"X-Request-ID": hostile}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", own)


def test_a_deadline_can_be_asked_for(server: Server, held: Held) -> None:
    block(server, held)
    late = server.http.post(f"{URL}?timeout_s=0.05", content=DISC)
    assert "no prediction within 0.05 s" in refusal(late, 504)["detail"]
    assert count(server, "timeout") == 1
    held.release.set()
