"""Evaluations over HTTP: submitted, watched, read, cancelled."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import evaluation
from attacks import Norm, ThreatModel
from evaluation import Catalog, EvaluationSpec, Report, make_plan, pgd_conditions, preset
from evaluation.plan import GPU_SHARD_IMAGES, SHARD_IMAGES
from evaluation.reports.formats.latex import to_latex
from evaluation.reports.formats.manifest import manifest
from evaluation.reports.formats.methods import methods
from service.http.formats import FORMATS
from service.jobs.evaluations import Status
from service.settings import Settings
from tests.conftest import without_times
from tests.server import Server, a_plan, serving, until
from tests.service.http.asked import FLIP, PGD, URL, body, finished, ids, problem, submitted, watch

UNKNOWN = "0123456789abcdef"
TURNED = {"name": "rotation", "parameters": {"degrees": 33}}


def test_an_evaluation_from_submission_to_report(http: httpx.Client, catalog: Catalog) -> None:
    fields = {"models": ["tiny", "twin"], "conditions": [{"kind": "clean"}, FLIP, PGD]}
    state = submitted(http, **fields)
    spec = EvaluationSpec.model_validate(body(**fields))
    assert state["id"] == make_plan(spec, catalog).id
    assert EvaluationSpec.model_validate(state["spec"]) == spec
    assert (state["progress"]["images_total"], state["progress"]["shards_total"]) == (36, 6)
    states = watch(http, state)
    done = [each["progress"]["images_done"] for each in states]
    assert done == sorted(done)
    assert states[-1]["status"] == "done"
    assert states[-1]["progress"] | {"images_per_s": None} == {
        "images_done": 36,
        "images_total": 36,
        "passes_done": make_plan(spec, catalog).passes,
        "passes_total": make_plan(spec, catalog).passes,
        "shards_done": 6,
        "shards_total": 6,
        "images_per_s": None,
        "eta_s": None,
    }
    assert states[-1]["progress"]["images_per_s"] > 0
    read = http.get(state["links"]["self"]).json()
    assert read | {"report": None} == states[-1]
    report = Report.model_validate(read["report"])
    assert report.complete
    assert without_times(report) == without_times(evaluation.evaluate(spec, catalog=catalog, device="cpu"))


def test_the_stream_of_a_finished_evaluation_is_one_event(http: httpx.Client) -> None:
    state = finished(http)
    assert [each["status"] for each in watch(http, state)] == ["done"]


def test_a_report_can_be_had_for_papers_and_tables(http: httpx.Client) -> None:
    state = finished(http, conditions=[{"kind": "clean"}, PGD])
    report = Report.model_validate(state["report"])
    found = {form.name: http.get(state["links"]["report"], params={"format": form.name}) for form in FORMATS}
    assert {name: answer.headers["content-type"].removesuffix("; charset=utf-8") for name, answer in found.items()} == {
        "csv": "text/csv",
        "html": "text/html",
        "json": "application/json",
        "latex": "application/x-latex",
        "manifest": "application/json",
        "markdown": "text/markdown",
        "methods": "text/plain",
        "parquet": "application/vnd.apache.parquet",
    }
    assert found["latex"].text == to_latex(report)
    assert found["methods"].text == methods(report) + "\n"
    assert found["manifest"].json() == manifest(report)
    lines = found["csv"].text.splitlines()
    assert len(lines) == 1 + 2 * report.plan.images
    assert {line.split(",")[2].split("/")[0] for line in lines[1:]} == {"disc", "square", "stripes"}
    assert found["parquet"].content.startswith(b"PAR1")


def test_a_report_can_be_had_in_three_formats(http: httpx.Client) -> None:
    state = finished(http, conditions=[{"kind": "clean"}, PGD])
    url = state["links"]["report"]
    report = Report.model_validate(state["report"])
    as_json, markdown, html = (http.get(url, params={"format": each}) for each in ("json", "markdown", "html"))
    assert http.get(url).json() == as_json.json()
    whole = Report.model_validate(as_json.json())
    assert [len(each.examples) > 0 for each in whole.models[0].conditions] == [False, True]
    assert report == whole.without_pictures()
    assert markdown.headers["content-type"] == "text/markdown; charset=utf-8"
    assert markdown.text == report.to_markdown()
    assert html.headers["content-type"] == "text/html; charset=utf-8"
    for condition in report.models[0].conditions:
        assert condition.score is not None
        assert condition.title in html.text
        assert f"{100 * condition.score.value:.1f}" in html.text
        assert f"n = {condition.score.n}" in html.text


def test_a_condition_that_is_certain_enough_spares_the_rest(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path
) -> None:
    monkeypatch.setattr(evaluation.plan, "SHARD_IMAGES", 4)
    with serving(settings.model_copy(update={"data_dir": tmp_path})) as server:
        state = finished(server.http, images=None, conditions=[{"kind": "clean"}], stop_width=0.5)
        assert state["status"] == "done"
        assert state["report"]["complete"]
        assert state["report"]["models"][0]["conditions"][0]["accuracy"]["n"] == 4
        assert state["progress"]["shards_done"] == state["progress"]["shards_total"] < 9
        again = server.http.post(URL, json=state["spec"]).json()
        assert (again["id"], again["status"]) == (state["id"], "done")
        rows = server.http.get(f"{URL}/{state['id']}/report", params={"format": "csv"}).text.splitlines()
        assert len(rows) == 1 + 4
        left = server.http.post(f"{URL}/dry-run", json=state["spec"]).json()
        assert (left["images_done"], left["passes"], left["seconds"]) == (33, 0, 0)


def test_a_dry_run_says_what_is_left_and_submits_nothing(http: httpx.Client) -> None:
    state = finished(http, seed=11)
    asked = state["spec"] | {"conditions": [*state["spec"]["conditions"], {"kind": "transform", **TURNED}]}
    found = http.post(f"{URL}/dry-run", json=asked).raise_for_status().json()
    n, rows = state["report"]["plan"]["images"], state["progress"]["images_total"]
    assert (found["images"], found["images_done"], found["passes"]) == (rows + n, rows, 2 * n)
    assert found["seconds"] > 0
    assert http.get(f"{URL}/{found['evaluation']}").status_code == 404
    assert http.post(f"{URL}/dry-run", json=asked | {"models": ["nobody"]}).status_code == 422
    again = http.post(f"{URL}/dry-run", json=state["spec"]).json()
    assert (again["passes"], again["seconds"]) == (0, 0)


def test_the_same_question_is_answered_once(server: Server) -> None:
    first = finished(server.http, seed=7)
    again = submitted(server.http, seed=7, precision="float32", conditions=[{"kind": "clean"}])
    assert (again["id"], again["status"]) == (first["id"], "done")
    stored = server.service.store.evaluation(first["id"])
    assert stored is not None
    assert (stored.status, stored.progress.runs) == (Status.DONE, 1)
    assert submitted(server.http, seed=8)["id"] != first["id"]


def test_the_same_question_at_the_same_time_is_one_evaluation(server: Server) -> None:
    with ThreadPoolExecutor(8) as threads:
        states = list(threads.map(lambda _: submitted(server.http, seed=9), range(8)))
    assert len({each["id"] for each in states}) == 1
    assert watch(server.http, states[0])[-1]["progress"]["shards_total"] == 1


def test_an_idempotency_key_may_come_again_with_the_same_body_alone(http: httpx.Client) -> None:
    key = {"Idempotency-Key": "k1"}
    first = http.post(URL, json=body(seed=10), headers=key)
    assert http.post(URL, json=body(seed=10), headers=key).json()["id"] == first.json()["id"]
    before = http.get(URL).json()
    answer = http.post(URL, json=body(seed=11), headers=key)
    assert answer.status_code == 422
    error = answer.json()["errors"][0]
    assert error["field"] == "Idempotency-Key"
    assert "'k1' was used before with another request" in error["message"]
    assert ids(http.get(URL).json()) == ids(before)


def pages(http: httpx.Client, limit: int) -> Iterator[list[str]]:
    cursor: int | None = None
    while True:
        page = http.get(URL, params={"limit": limit} | ({} if cursor is None else {"cursor": cursor})).json()
        assert all(each["report"] is None for each in page["evaluations"])
        yield ids(page)
        cursor = page["next_cursor"]
        if cursor is None:
            return


def test_the_list_has_pages_with_the_newest_first(http: httpx.Client) -> None:
    mine = [submitted(http, seed=seed)["id"] for seed in range(20, 25)]
    found = list(pages(http, 2))
    assert all(len(page) == 2 for page in found[:-1])
    everything = [each for page in found for each in page]
    assert [each for each in everything if each in mine] == mine[::-1]
    assert len(set(everything)) == len(everything)
    assert everything == ids(http.get(URL, params={"limit": 200}).json())


def test_a_cancelled_evaluation_stops_and_goes_on_when_submitted_again(server: Server) -> None:
    """Of so many steps that it would take days; the process in which it runs is killed."""
    endless = [{"kind": "clean"}, PGD | {"attacks": [{"name": "pgd", "parameters": {"steps": 10_000}}]}]
    state = submitted(server.http, conditions=endless, images=33, models=["tiny", "twin"])
    until(lambda: server.http.get(state["links"]["self"]).json()["progress"]["shards_done"])
    answer = server.http.delete(state["links"]["self"])
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    last = watch(server.http, state)[-1]
    assert (last["status"], last["progress"]["eta_s"]) == ("cancelled", None)
    partial = server.http.get(state["links"]["report"], params={"format": "markdown"}).text
    assert "PARTIAL" in partial
    assert finished(server.http, seed=30)["status"] == "done", "the device is free for others"
    assert server.http.delete(state["links"]["self"]).json()["status"] == "cancelled"
    again = submitted(server.http, conditions=endless, images=33, models=["tiny", "twin"])
    assert (again["id"], again["status"]) == (state["id"], "running")
    assert again["progress"]["shards_done"] == last["progress"]["shards_done"]
    server.http.delete(state["links"]["self"])


def test_cancelling_what_is_finished_changes_nothing(http: httpx.Client) -> None:
    state = finished(http, seed=31)
    assert http.delete(state["links"]["self"]).json()["status"] == "done"
    assert http.get(state["links"]["self"]).json() == state


def test_the_rotation_flip_route_fills_its_preset(http: httpx.Client) -> None:
    spec = submitted(http, url=f"{URL}/rotation-flip")["spec"]
    assert EvaluationSpec.model_validate(spec).conditions == preset("rotation-flip")


def test_the_pgd_route_fills_its_preset(http: httpx.Client) -> None:
    plain = submitted(http, url=f"{URL}/pgd")["spec"]
    assert EvaluationSpec.model_validate(plain).conditions == pgd_conditions([8 / 255])
    full = {"eps": ["4/255", 0.5], "norm": "L2", "steps": 3, "step_size": "1/255", "restarts": 2, "targets": "random"}
    spec = EvaluationSpec.model_validate(submitted(http, url=f"{URL}/pgd", random_start=False, **full)["spec"])
    assert spec.conditions == pgd_conditions(
        [4 / 255, 0.5],
        norm=evaluation.presets.Norm.L2,
        steps=3,
        step_size=1 / 255,
        random_start=False,
        restarts=2,
        targets="random",
    )
    assert (spec.models, spec.dataset, spec.images, spec.seed) == (("tiny",), "shapes", 6, 0)


def test_a_preset_route_takes_another_budget(http: httpx.Client) -> None:
    spec = submitted(http, url=f"{URL}/san-pgd", threat={"norm": "L2", "eps": "128/255"})["spec"]
    assert EvaluationSpec.model_validate(spec).conditions == preset("san-pgd", ThreatModel(Norm.L2, 128 / 255))


@pytest.mark.parametrize("suffix", ["", "/events", "/report"])
def test_an_unknown_or_malformed_id_is_refused(http: httpx.Client, suffix: str) -> None:
    assert UNKNOWN in problem(http.get(f"{URL}/{UNKNOWN}{suffix}"), 404)["detail"]
    for malformed in ("short", UNKNOWN.upper(), f"{UNKNOWN}0", "..%2f..", "%00"):
        answer = http.get(f"{URL}/{malformed}{suffix}")
        assert answer.status_code in {404, 422}
        problem(answer, answer.status_code)
    problem(http.delete(f"{URL}/{UNKNOWN}"), 404)


def test_bad_queries_and_headers_are_refused(http: httpx.Client, server: Server) -> None:
    server.service.store.submit(a_plan())
    server.service.store.cancel(a_plan().id)
    report = problem(http.get(f"{URL}/{a_plan().id}/report", params={"format": "pdf"}), 422)
    assert report["errors"][0]["field"] == "format"
    assert "'csv', 'html', 'json', 'latex'" in report["errors"][0]["message"]
    for query in ({"limit": 0}, {"limit": 201}, {"cursor": -1}, {"cursor": "next"}):
        assert problem(http.get(URL, params=query), 422)["errors"][0]["field"] in query
    long_key = problem(http.post(URL, json=body(), headers={"Idempotency-Key": "k" * 256}), 422)
    assert long_key["errors"][0]["field"].lower() == "idempotency-key"


GPU, OTHER_GPU, SHARE = "ray:10.0.0.5-3f2a9c/cuda:0", "ray:10.0.0.6-77b0e1/cuda:1", "ray:10.0.0.7-0c4d5e/cpu:0"


@pytest.mark.parametrize(
    ("devices", "max_gpus", "images"),
    [
        ([GPU, OTHER_GPU], None, GPU_SHARD_IMAGES),
        ([GPU, SHARE], None, SHARD_IMAGES),
        ([SHARE], 4, SHARD_IMAGES),
        ([], 4, GPU_SHARD_IMAGES),
        ([], None, SHARD_IMAGES),
    ],
)
def test_shards_are_cut_for_the_devices_of_the_cluster(
    settings: Settings, tmp_path: Path, devices: list[str], max_gpus: int | None, images: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    on_ray = {"ray_address": nobody, "ray_max_gpus": max_gpus, "data_dir": tmp_path}
    with serving(settings.model_copy(update=on_ray)) as server:
        queue = server.service.queue
        until(server.service.dispatcher.active.is_set)
        queue.change_devices(joined=devices, gone=[])
        assert cut_of(server) == images
        queue.change_devices(joined=[GPU] if images == SHARD_IMAGES else [SHARE], gone=devices)
        assert cut_of(server) == images, "what is there stays as it was cut"


def cut_of(server: Server) -> int:
    answer = server.http.post(URL, json=body(images=3, conditions=[{"kind": "clean"}]))
    found = server.service.store.evaluation(answer.json()["id"])
    assert found is not None
    return found.plan.shard_images
