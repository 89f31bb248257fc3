"""JSON that is too large, too deep or no text, on every route that takes some."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.http.bodies.json_bodies import MOST_VALUES
from service.http.middleware.json_limit import MOST_BYTES
from service.http.problems import LONGEST_DETAIL, MOST_FIELDS
from service.settings import Settings
from tests.server import Server, serving
from tests.service.http.raw import exchange, head
from tests.service.pictures import DISC, URL

ROUTES = (
    "/v1/evaluations",
    "/v1/evaluations/pgd",
    "/v1/evaluations/rotation-flip",
    "/v1/evaluations/dry-run",
    "/v1/models",
    "/v1/models/tiny/predict",
    "/v1/models/tiny/classify",
    "/v1/models/tiny/explain",
    "/v2/models/tiny/infer",
    "/v2/repository/index",
    "/v2/repository/models/tiny/load",
    "/v2/repository/models/tiny/unload",
    "/changes",
)
TYPES = ("application/json", "application/vnd.withstand+json", "")

DEEP = b"[" * 100_000
SURROGATE = rb'{"\ud800": "\udfff"}'
MANY = b"{" + b",".join(b'"%d":1' % number for number in range(MOST_VALUES)) + b"}"


def sent(http: httpx.Client, path: str, body: bytes, media_type: str) -> httpx.Response:
    headers = {"Content-Type": media_type} if media_type else {}
    return http.request("PUT" if path.endswith("serving") else "POST", path, content=body, headers=headers)


@pytest.mark.parametrize("media_type", TYPES)
@pytest.mark.parametrize("path", [*ROUTES, "/v1/models/tiny/serving"])
@pytest.mark.parametrize(("body", "statuses"), [(DEEP, {422}), (SURROGATE, {422}), (MANY, {413, 422})])
def test_hostile_json_is_refused(
    http: httpx.Client, path: str, body: bytes, statuses: set[int], media_type: str
) -> None:
    answer = sent(http, path, body, media_type)
    allowed = statuses | ({415} if "predict" in path or "explain" in path or "classify" in path else set())
    assert answer.status_code in allowed, answer.text[:1000]
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 2**16


def test_json_without_pictures_is_small(settings: Settings, tmp_path: Path) -> None:
    body = json.dumps({"models": ["x" * MOST_BYTES]}).encode()
    with serving(settings.model_copy(update={"max_body_bytes": 4 * MOST_BYTES, "data_dir": tmp_path})) as roomy:
        for path in (*ROUTES[:5], "/changes"):
            assert sent(roomy.http, path, body, "application/json").status_code == 413
        images = json.dumps({"images": [b64encode(DISC).decode() + " " * MOST_BYTES]}).encode()
        assert sent(roomy.http, URL, images, "application/json").status_code == 422


@pytest.mark.parametrize(
    "card", [DEEP, SURROGATE, rb'{"training": "\ud800"}', rb'{"classes": ["\udfff", "b", "c"]}', MANY[:1_000_000]]
)
def test_a_hostile_card_is_refused(http: httpx.Client, card: bytes) -> None:
    answer = http.post("/v1/models", files={"file": ("a.safetensors", b"x")}, data={"card": card.decode()})
    assert answer.status_code in {413, 422}, answer.text[:1000]
    assert len(answer.content) < 2**16


def test_an_error_lists_the_first_fields_and_counts_the_others(http: httpx.Client) -> None:
    body = {f"unknown{number}": 1 for number in range(1000)}
    problem: dict[str, Any] = http.post("/v1/evaluations", json=body).json()
    assert len(problem["errors"]) == MOST_FIELDS == 20
    assert problem["detail"].endswith("; and 982 more")  # `models` and `dataset` are missing, too
    few = http.post("/v1/evaluations", json={"models": ["tiny"], "dataset": "shapes", "a": 1, "b": 2}).json()
    assert [each["field"] for each in few["errors"]] == ["a", "b"]
    assert "more" not in few["detail"]


def test_an_error_does_not_repeat_long_texts(http: httpx.Client) -> None:
    asked = {"models": ["tiny"], "dataset": "shapes"}
    for body in ({"x" * 500_000: 1}, asked | {"conditions": [{"kind": "x" * 20_000}] * 25}):
        answer = http.post("/v1/evaluations", json=body)
        assert answer.status_code == 422
        assert len(answer.json()["detail"]) <= LONGEST_DETAIL
        assert all(len(str(each)) < 2 * LONGEST_DETAIL for each in answer.json()["errors"])


@pytest.mark.parametrize("cursor", ["9223372036854775808", "-1", str(10**30)])
def test_a_cursor_that_no_database_holds_is_refused(http: httpx.Client, cursor: str) -> None:
    answer = http.get("/v1/evaluations", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "cursor")
    assert http.get("/v1/evaluations", params={"cursor": str(2**63 - 1)}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/v1/models", "/v2", "/docs", "/openapi.json", "/static/style.css", "/nothing"]
)
def test_head_is_get_without_a_body(http: httpx.Client, path: str) -> None:
    head, get = http.head(path), http.get(path)
    while head.headers.get("etag") != get.headers.get("etag"):  # the page has changed in between
        head, get = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    changing = {"x-request-id", "date"}
    assert {*head.headers.items()} - {*get.headers.items()} <= {
        item for item in head.headers.items() if item[0] in changing
    }


def test_head_of_an_event_stream_ends(http: httpx.Client) -> None:
    asked = {"models": ["tiny"], "dataset": "shapes", "images": 6}
    events = http.post("/v1/evaluations", json=asked).json()["links"]["events"]
    answer = http.head(events)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


def test_head_of_a_route_that_changes_something_is_refused(http: httpx.Client) -> None:
    assert http.head("/v1/models/tiny/predict").status_code == 405


@pytest.mark.parametrize(
    ("sent_trace", "answered"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", False),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", False),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", False),
        ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", False),
        ("<script>", False),
        ("x" * 10_000, False),
    ],
)
def test_only_a_traceparent_is_repeated(http: httpx.Client, sent_trace: str, answered: bool) -> None:
    answer = http.get("/healthz", headers={"traceparent": sent_trace})
    assert answer.headers.get("traceparent") == (sent_trace if answered else None)


def test_a_redirect_repeats_no_host(server: Server) -> None:
    for path in ("/v1/models/", "//example.org/", "/docs/", "/v1//models"):
        answer = exchange(server, head(f"GET {path}", "Connection: close"))
        assert answer.startswith(b"HTTP/1.1 404"), answer
        assert b"location" not in answer.lower().partition(b"\r\n\r\n")[0]
