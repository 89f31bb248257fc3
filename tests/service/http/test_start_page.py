"""The start page: what runs, and the latest results with the numbers of their reports, each counted once."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from evaluation import Report
from service.http.pages import result_rows
from service.jobs.reports.counted import Reports
from service.jobs.store import MAX_FAILURES
from service.settings import Settings
from tests.server import Server, a_plan, a_result, serving, until
from tests.service.http.asked import PGD, body, finished, submitted
from tests.service.http.page import Page
from tests.service.http.test_callers import SLOW, key

SPEC = {"models": ["tiny", "evil"], "images": 9, "conditions": [{"kind": "clean"}, PGD]}


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Iterator[Server]:
    keys = {"api_keys": frozenset({"one", "two"}), "admin_keys": frozenset({"owner"})}
    with serving(settings.model_copy(update=keys | {"data_dir": tmp_path / "data"})) as running:
        yield running


def section(html: str, name: str) -> str:
    """The text of a section, with single spaces."""
    (found,) = re.findall(rf'<div id="{name}" data-hash="\w+">(.*?)</div>\n(?=<div id|  </main>)', html, re.DOTALL)
    return words(found)


def words(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html.replace("<wbr>", ""))).split())


def result(html: str, evaluation: str) -> str:
    (found,) = re.findall(rf'<tbody id="result-{evaluation}">(.*?)</tbody>', html, re.DOTALL)
    return words(found)


def report_of(server: Server, state: dict[str, Any]) -> Report:
    return Report.model_validate(server.http.get(state["links"]["report"]).json())


def test_results_have_the_numbers_of_their_report(fresh: Server) -> None:
    state = finished(fresh.http, **SPEC)
    html = fresh.http.get("/").text
    shown = result(html, state["id"])
    assert state["links"]["page"] in Page(html).addresses
    for model in report_of(fresh, state).models:
        clean, lowest = model.clean_accuracy, model.lowest
        assert clean is not None
        assert lowest is not None
        assert lowest.score == min((each.score for each in model.conditions if each.score), key=lambda each: each.value)
        scores = [
            f"{100 * each.value:.1f} % [{100 * each.low:.1f}, {100 * each.high:.1f}], n = 9"
            for each in (clean, lowest.score)
            if each
        ]
        assert f"{model.model} {scores[0]} {scores[1]} {lowest.title} {model.grade}" in shown
        assert model.verdict in shown
    assert "shapes" in shown
    assert f"{state['created_at'][:10]} {state['created_at'][11:16]} UTC" in shown
    assert "partial" not in shown


def test_what_runs_comes_first_with_its_progress_and_controls(fresh: Server) -> None:
    waiting = submitted(fresh.http, **SPEC | {"conditions": SLOW["conditions"], "seed": 3})
    html = fresh.http.get("/").text
    shown = section(html, "unfinished")
    assert "Running and waiting tiny, evil" in shown
    assert "/ 18 images" in shown
    assert "pause cancel" in shown
    assert re.search(r"1 device, \d running, \d evaluations? waiting", section(html, "overview"))
    assert html.index('id="unfinished"') < html.index('id="results"')
    fresh.http.delete(waiting["links"]["self"]).raise_for_status()
    html = fresh.http.get("/").text
    assert section(html, "unfinished") == ""
    assert "cancelled partial: 0 of 18 images" in result(html, waiting["id"])


def test_a_failed_evaluation_is_partial_and_can_be_tried_again(fresh: Server) -> None:
    fresh.http.post("/v1/queue/pause").raise_for_status()
    plan = a_plan(5, images=4)
    fresh.service.store.submit(plan)
    fresh.http.post("/v1/queue/resume").raise_for_status()  # its checkpoint has another hash
    until(lambda: "failed partial: 0 of 4 images retry" in section(fresh.http.get("/").text, "results"))
    assert f'data-method="POST" data-path="/v1/evaluations/{plan.id}/retry"' in fresh.http.get("/").text
    failure = fresh.http.get("/v1/failures").json()["failures"][0]
    assert (failure["evaluation"], failure["tries"], failure["title"]) == (plan.id, MAX_FAILURES, "clean")


def test_a_result_is_counted_and_rendered_once(fresh: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(fresh.http, **SPEC)
    monkeypatch.setattr(result_rows, "COUNTING_S", 60.0)
    html = section(fresh.http.get("/").text, "results")
    monkeypatch.setattr(Reports, "once", lambda *_: pytest.fail("it is counted again"))
    fresh.http.post("/v1/queue/pause").raise_for_status()
    assert section(fresh.http.get("/").text, "results") == html
    fresh.http.post("/v1/queue/resume").raise_for_status()


def test_a_page_does_not_wait_until_all_results_are_counted(fresh: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_rows, "COUNTING_S", 60.0)
    fresh.http.get("/")
    store = fresh.service.store
    for number in (11, 12, 13):
        store.submit(a_plan(number, images=2))
        store.cancel(a_plan(number).id)
    monkeypatch.setattr(result_rows, "COUNTING_S", -1.0)
    html = fresh.http.get("/").text
    assert section(html, "results").count("counting") == 3
    monkeypatch.setattr(result_rows, "COUNTING_S", 60.0)
    known = re.findall(r'data-hash="(\w+)"', html)
    changes = fresh.http.post("/changes", json=known).text
    assert "data-live" in html
    assert "counting" not in changes
    assert changes.count('<tbody id="result-') >= 3


def test_earlier_results_have_pages_of_their_own(fresh: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.http.pages.routes.start.RESULTS_SHOWN", 2)
    for number in range(20, 24):
        fresh.service.store.submit(a_plan(number, images=2))
        fresh.service.store.cancel(a_plan(number).id)
    latest = fresh.http.get("/").text
    (path,) = [each for each in Page(latest).addresses if each.startswith("/?before=")]
    earlier = fresh.http.get(path).text
    assert f'data-changes="/changes{path[1:]}"' in earlier
    ids = [re.findall(r'<tbody id="result-(\w+)"', html) for html in (latest, earlier)]
    assert ids == [[a_plan(number).id for number in each] for each in ((23, 22), (21, 20))]


def test_models_beyond_the_first_few_are_counted(own: Server) -> None:
    own.service.dispatcher.stop()
    store, plan = own.service.store, a_plan(31, images=2)
    names = ("a", "b", "c", "d", "e")
    spec = plan.spec.model_copy(update={"models": names})
    matches = dict.fromkeys(names, plan.matches["tiny"])
    shas = {name: f"{place:064x}" for place, name in enumerate(names)}
    plan = plan.model_copy(update={"spec": spec, "matches": matches, "model_sha256": shas})
    store.submit(plan)
    while claimed := store.claim():
        store.complete(claimed, a_result(claimed.shard, prediction=int(claimed.shard.model < "d")))
    found = store.evaluation(plan.id)
    assert found is not None
    (row,) = own.service.result_rows.of([found])
    shown = words(row)
    assert re.findall(r"\b([a-e]) (\d+\.0) %", shown) == [("d", "100.0"), ("e", "100.0"), ("a", "0.0")]
    assert "and 2 models with lower scores" in shown


def test_each_key_sees_its_own_results_and_counts_of_the_rest(own: Server) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        own.http.post("/v1/evaluations", json=SLOW | {"seed": seed}, headers=key(name)).raise_for_status()
        state = own.http.post("/v1/evaluations", json=body(seed=seed), headers=key(name)).json()
        own.http.delete(state["links"]["self"], headers=key(name)).raise_for_status()
    ids = {
        name: [each["id"] for each in own.http.get("/v1/evaluations", headers=key(name)).json()["evaluations"]]
        for name in ("one", "two", "owner")
    }
    pages = {name: own.http.get("/", headers=key(name)).text for name in ids}
    assert all(each in pages["one"] and each not in pages["two"] for each in ids["one"])
    assert all(each in pages["owner"] for each in ids["owner"])
    assert "1 device" in section(pages["two"], "overview")
