"""Evaluations that are submitted over HTTP, and what is asked of their answers."""

import json
from typing import Any

import httpx

from tests.server import DEADLINE_S

PGD = {
    "kind": "adversarial",
    "threat": {"norm": "Linf", "eps": "8/255"},
    "attacks": [{"name": "pgd", "parameters": {"steps": 2}}],
}


TURNS = [{"kind": "transform", "name": "rotation", "parameters": {"degrees": degrees}} for degrees in (90, 180, 270)]


SPEC = {"models": ["tiny"], "dataset": "shapes", "images": 33, "conditions": [{"kind": "clean"}, *TURNS, PGD]}


URL = "/v1/evaluations"


FLIP = {"kind": "transform", "name": "flip", "parameters": {"direction": "upside_down"}}


def body(**fields: object) -> dict[str, Any]:
    return {"models": ["tiny"], "dataset": "shapes", "images": 6} | fields


def submitted(http: httpx.Client, *, url: str = URL, **fields: object) -> dict[str, Any]:
    answer = http.post(url, json=body(**fields))
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"{URL}/{answer.json()['id']}"
    return answer.json()


def watch(http: httpx.Client, state: dict[str, Any]) -> list[dict[str, Any]]:
    """Every state of the event stream, to its end."""
    with http.stream("GET", state["links"]["events"], timeout=DEADLINE_S) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = list(answer.iter_lines())
    events = [line.removeprefix("event: ") for line in lines if line.startswith("event:")]
    states = [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:")]
    assert events == ["progress"] * len(states)
    return states


def finished(http: httpx.Client, **fields: object) -> dict[str, Any]:
    """Submit, watch to the end, read."""
    last = watch(http, submitted(http, **fields))[-1]
    assert last["status"] == "done", last["error"]
    return http.get(last["links"]["self"]).json()


def ids(page: dict[str, Any]) -> list[str]:
    return [each["id"] for each in page["evaluations"]]


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert set(found) == {"type", "title", "status", "detail", "error", "errors"}
    assert found["status"] == status
    assert found["error"] == found["detail"]
    assert found["detail"]
    return found
