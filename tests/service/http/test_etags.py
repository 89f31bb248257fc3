"""What has not changed is not sent again: tags of evaluations and reports, ids of events."""

from typing import Any

import httpx
import pytest

from service.http.formats import ReportFormat
from service.jobs.reports.counted import Reports
from tests.server import DEADLINE_S, Server, until
from tests.service.http.asked import PGD, URL, finished, submitted


def again(http: httpx.Client, answer: httpx.Response, **headers: str) -> httpx.Response:
    return http.get(answer.url.raw_path.decode(), headers={"If-None-Match": answer.headers["etag"], **headers})


@pytest.fixture
def held_up(fresh: Server, request: pytest.FixtureRequest) -> dict[str, Any]:
    """An evaluation that is paused, so that nothing about it changes by itself."""
    fresh.http.post("/v1/queue/pause").raise_for_status()
    return submitted(fresh.http, conditions=[{"kind": "clean"}, PGD], seed=len(request.node.name))


def test_an_answer_that_is_known_is_not_made_again(fresh: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh.http.post("/v1/queue/resume").raise_for_status()
    done = finished(fresh.http, conditions=[{"kind": "clean"}])
    link = done["links"]["self"]
    paths = [link, *(f"{link}/report?format={each}" for each in ReportFormat)]
    answers = [fresh.http.get(path).raise_for_status() for path in paths]
    tags = [each.headers["etag"] for each in answers]
    assert len({*tags}) == len(paths), "no two of them are the same"
    assert all(each.headers["cache-control"] == "private, no-cache" for each in answers)
    with monkeypatch.context() as patch:
        patch.setattr(Reports, "of", lambda *_: pytest.fail("a report was made"))
        for answer in answers:
            for known in (answer.headers["etag"], f'"x", {answer.headers["etag"]}', "*"):
                same = fresh.http.get(answer.url.raw_path.decode(), headers={"If-None-Match": known})
                assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", answer.headers["etag"])
    for known in ("", '"x"', answers[1].headers["etag"].removeprefix("W/")):
        assert fresh.http.get(link, headers={"If-None-Match": known}).status_code == 200
    assert again(fresh.http, answers[0], **{"Accept-Encoding": "gzip"}).status_code == 304


def test_whatever_changes_gives_another_tag(fresh: Server, held_up: dict[str, Any]) -> None:
    http, link, store = fresh.http, held_up["links"]["self"], fresh.service.store
    read = http.get(link)
    assert again(http, read).status_code == 304
    for method, path, sent in (
        ("PUT", "priority", {"priority": "high"}),
        ("PUT", "limits", {"max_devices": 1}),
        ("PUT", "limits", {"max_devices": 1, "max_hours": 1}),
    ):
        http.request(method, f"{link}/{path}", json=sent).raise_for_status()
        changed = again(http, read)
        assert (changed.status_code, again(http, changed).status_code) == (200, 304)
        read = changed
    report = http.get(f"{link}/report")
    http.post("/v1/queue/resume").raise_for_status()
    until(lambda: http.get(link).json()["status"] == "done")
    assert again(http, read).json()["status"] == "done"
    assert again(http, report).json()["complete"]
    report, read = http.get(f"{link}/report"), http.get(link)
    store.remove(held_up["id"])
    assert again(http, read).status_code == 404
    http.post(URL, json=held_up["spec"]).raise_for_status()
    until(lambda: http.get(link).json()["status"] == "done")
    assert again(http, report).status_code == 200, "it was computed anew"


def events(http: httpx.Client, link: str, last: str | None = None) -> list[tuple[str, str]]:
    """Ids and data of the events of a stream, to its end."""
    headers = {} if last is None else {"Last-Event-ID": last}
    with http.stream("GET", f"{link}/events", headers=headers, timeout=DEADLINE_S) as answer:
        lines = [*answer.raise_for_status().iter_lines()]
    ids, sent = ([each[len(name) :].strip() for each in lines if each.startswith(name)] for name in ("id:", "data:"))
    return [*zip(ids, sent, strict=True)]


def test_who_comes_back_gets_what_has_changed_at_once_and_nothing_twice(fresh: Server, held_up: dict[str, Any]) -> None:
    http, link = fresh.http, held_up["links"]["self"]
    with http.stream("GET", f"{link}/events") as answer:
        first = next(line for line in answer.iter_lines() if line.startswith("id:")).removeprefix("id:").strip()
    with (
        pytest.raises(httpx.ReadTimeout),
        http.stream("GET", f"{link}/events", headers={"Last-Event-ID": first}, timeout=1.5) as answer,
    ):
        pytest.fail(f"the same was sent again: {next(line for line in answer.iter_lines() if line)}")
    http.post("/v1/queue/resume").raise_for_status()
    later = events(http, link, first)
    assert first not in {each for each, _ in later}
    assert len({each for each, _ in later}) == len({sent for _, sent in later}) == len(later)
    assert '"status":"done"' in later[-1][1]
    assert events(http, link, later[-1][0]) == [], "it has ended, and that is known"
    assert events(http, link, first) == later[-1:], "states are not replayed"
    assert events(http, link, "unknown") == later[-1:]
