"""The page of devices and queue, and its twin for failures: each key sees its own by name, and counts of the rest."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import update

from service.http.pages.templates import macro
from service.http.routes.queue import Amounts, DeviceView, MemoryView, QueueView, RunningView, WaitingView
from service.jobs.evaluations import Priority
from service.jobs.queries import forget_plan
from service.jobs.store import MAX_FAILURES
from service.settings import Settings
from service.sql.tables import EVALUATIONS
from tests.server import EVIL, Server, serving, until
from tests.service.http.page import Page
from tests.service.http.test_callers import SLOW, key
from tests.service.http.test_live_pages import Reader
from tests.service.http.test_queue import post, queue, submit
from tests.service.http.test_start_page import section, words
from tests.service.pictures import refusal


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Iterator[Server]:
    keys = {"api_keys": frozenset({"one", "two"}), "admin_keys": frozenset({"owner"}), "devices": ("cpu:0",)}
    with serving(settings.model_copy(update=keys | {"data_dir": tmp_path / "data"})) as running:
        yield running


def html(own: Server, name: str) -> str:
    return own.http.get("/queue", headers=key(name)).raise_for_status().text


def fail(own: Server, evaluation: str, cause: str) -> None:
    """Let what devices would run fail, without one."""
    while (claimed := own.service.store.claim()) and claimed.evaluation_id == evaluation:
        own.service.store.fail(claimed.id, cause)


def test_an_empty_server_says_so(own: Server) -> None:
    page = html(own, "one")
    assert "cpu:0 idle" in section(page, "devices")
    assert section(page, "queue") == "Queue open Nothing waits."
    assert section(page, "waiting") == ""
    assert section(page, "failures") == "Recent failures None."
    (current,) = [found["href"] for _, found in Page(page).tags if found.get("aria-current") == "page"]
    assert current == "/queue"


def test_a_device_shows_its_shard_and_its_condition_in_words(own: Server) -> None:
    mine = submit(own, "one")
    until(lambda: queue(own, "one")["running"])
    shown = {name: section(html(own, name), "devices") for name in ("one", "two", "owner")}
    running = r"cpu:0 running tiny PGD-10000 Linf 8/255 \d+ of \d+ \d+ s \S cancel"
    assert re.search(running, shown["one"])
    assert re.search(running, shown["owner"])
    assert shown["two"].endswith("cpu:0 running a shard of another key \N{EN DASH}")
    assert f"/evaluations/{mine}" in Page(html(own, "one")).addresses
    assert "tiny" not in html(own, "two")
    (device,) = own.http.get("/v1/devices", headers=key("one")).json()["devices"]
    assert device["running"]["title"] == "PGD-10000 Linf 8/255"


def test_what_waits_is_listed_in_order_with_what_its_owner_may_do(own: Server) -> None:
    post(own, "queue/pause", "owner")
    first, others, high = submit(own, "one"), submit(own, "two", seed=1), submit(own, "one", seed=2, priority="high")
    page = html(own, "one")
    rows = re.findall(r'<tr id="waiting-(\w+)"><td>(\d)</td>', page)
    assert rows == [(high, "1"), (first, "2")]
    shown = section(page, "waiting")
    assert "tiny on shapes high lower" in shown
    assert "tiny on shapes normal raise lower" in shown
    assert re.search(r"paused cancel .*Of other keys, 0 shards now run, and 1 evaluation with \d shards", shown)
    assert others not in page
    waiting = queue(own, "one")["waiting"]
    assert [(each["models"], each["dataset"]) for each in waiting] == [(["tiny"], "shapes")] * 2
    raised = '{"priority": "high"}'
    buttons = [found for tag, found in Page(page).tags if tag == "button" and found.get("data-body") == raised]
    assert [each["data-path"] for each in buttons] == [f"/v1/evaluations/{first}/priority"]
    assert [each["aria-label"] for each in buttons] == ["raise the priority of the evaluation of tiny on shapes"]
    assert own.http.put(
        str(buttons[0]["data-path"]), content=raised, headers=key("one") | {"Content-Type": "application/json"}
    ).json() == own.http.get(f"/v1/evaluations/{first}", headers=key("one")).json() | {"report": None}
    assert len(re.findall('<tr id="waiting-', html(own, "owner"))) == 3


def test_the_whole_queue_is_paused_by_those_who_may(own: Server) -> None:
    for name, may in (("one", False), ("owner", True)):
        paths = [found.get("data-path") for _, found in Page(html(own, name)).tags]
        assert ("/v1/queue/pause" in paths) == may
    post(own, "queue/pause", "owner")
    page = html(own, "owner")
    assert 'data-path="/v1/queue/resume"' in page
    assert section(page, "queue").startswith(
        "Queue paused Running shards are finished, no others are started. Nothing waits."
    )
    assert "the queue is paused" in own.http.get("/", headers=key("one")).text


def test_failures_are_listed_with_their_cause_to_those_who_asked(own: Server) -> None:
    own.service.dispatcher.stop()
    mine = submit(own, "one")
    fail(own, mine, "RuntimeError: CUDA error\nout of memory <script>alert(1)</script>")
    (failure,) = own.http.get("/v1/failures", headers=key("one")).json()["failures"]
    assert failure | {"failed_at": ""} == {
        "evaluation": mine,
        "model": "tiny",
        "condition": 0,
        "title": "PGD-10000 Linf 8/255",
        "start": 0,
        "images": failure["images"],
        "status": "failed",
        "cause": "RuntimeError: CUDA error\nout of memory <script>alert(1)</script>",
        "tries": MAX_FAILURES,
        "failed_at": "",
    }
    shown = section(html(own, "one"), "failures")
    when = failure["failed_at"].replace("T", " ")[:16]
    last = f"out of memory <script>alert(1)</script> {MAX_FAILURES} failed for good {when} UTC"
    assert shown.endswith(f"tiny PGD-10000 Linf 8/255, {failure['images']} images from 0 on {last}")
    assert "<script>alert" not in html(own, "one")
    assert own.http.get("/v1/failures", headers=key("two")).json() == {"failures": []}
    assert section(html(own, "two"), "failures") == "Recent failures None."
    submit(own, "two", seed=1)
    fail(own, submit(own, "two", seed=1), "another")
    causes = own.http.get("/v1/failures", headers=key("owner"), params={"limit": 1}).json()["failures"]
    assert [each["cause"] for each in causes] == ["another"]
    refusal(own.http.get("/v1/failures", headers=key("one"), params={"limit": 0}), 422)


def test_the_page_sends_only_what_changed(own: Server) -> None:
    post(own, "queue/pause", "owner")
    own.http.headers.update(key("owner"))
    reader = Reader(own.http, "/queue")
    assert reader.sections.keys() == {"devices", "queue", "waiting", "failures"}
    assert reader.update() == ([], "")
    submit(own, "one")
    assert reader.update()[0] == ["queue", "waiting"]
    assert reader.update() == ([], "")
    post(own, "queue/resume", "owner")
    until(lambda: "devices" in reader.update()[0])


def test_a_paused_evaluation_can_be_resumed_and_what_it_has_is_written_for_people(own: Server) -> None:
    running = submit(own, "one")
    until(lambda: queue(own, "one")["running"])
    waiting = own.http.post(
        "/v1/evaluations", json=SLOW | {"images": 33, "seed": 7, "models": ["tiny", "twin"]}, headers=key("one")
    )
    mine = waiting.json()["id"]
    assert post(own, f"evaluations/{mine}/pause", "one").status_code == 200
    page = html(own, "one")
    assert f'data-path="/v1/evaluations/{mine}/resume"' in page
    assert f'data-method="DELETE" data-path="/v1/evaluations/{running}"' in page
    passes = next(each["passes"] for each in queue(own, "one")["waiting"] if each["evaluation"] == mine)
    assert passes > 10**6
    assert f"{passes / 10**6:.1f} million" in section(page, "waiting")


def test_an_evaluation_whose_plan_cannot_be_read_is_named_by_its_id(own: Server) -> None:
    post(own, "queue/pause", "owner")
    mine = submit(own, "one")
    with own.service.store.writing() as db:
        db.execute(update(EVALUATIONS).values(plan="{"))
        forget_plan(db, mine)
    page = html(own, "one")
    assert f"{mine} its plan cannot be read" in section(page, "waiting")
    assert f'data-question="Cancel evaluation {mine}?' in page


def test_whatever_is_shown_is_escaped() -> None:
    evil = f'">{EVIL}'
    amounts = Amounts(evaluations=1, shards=1, passes=1)
    waiting = WaitingView(
        place=1, evaluation=evil, models=(evil,), dataset=evil, priority=Priority.LOW, paused=True, shards=1, passes=1
    )
    queue = QueueView(
        paused=False,
        running=[],
        running_of_others=1,
        waiting=[waiting],
        waiting_in_all=amounts,
        waiting_of_others=amounts,
    )
    running = RunningView(
        evaluation=evil,
        model=evil,
        condition=0,
        title=evil,
        start=0,
        images=1,
        images_done=0,
        share_done=0.5,
        since=datetime.now(UTC),
    )
    device = DeviceView(
        name=evil,
        state="set aside",
        running=running,
        deaths=3,
        set_aside_until=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        problem=evil,
        memory=MemoryView(used_bytes=3 * 2**29, total_bytes=2**37),
    )
    shown = macro("queue_parts.html", "waiting", queue, "") + macro("queue_parts.html", "devices", [device], "")
    assert "<script" not in shown
    assert "set aside until 2026-01-02 03:04 UTC" in words(shown)
    assert "1.5 of 128.0 GiB" in words(shown)
    assert words(shown).count("alert('withstand')") >= 6
