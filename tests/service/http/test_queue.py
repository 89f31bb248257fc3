"""The queue of evaluations over HTTP: each key sees its own, an admin key all."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Timer
from typing import Any

import httpx
import pytest

from service.settings import Settings
from tests.server import Server, serving, until
from tests.service.http.asked import watch
from tests.service.http.test_callers import SLOW, key
from tests.service.pictures import refusal

DEVICES = ("cpu:0",)


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Iterator[Server]:
    keys = {"api_keys": frozenset({"one", "two"}), "admin_keys": frozenset({"owner"}), "devices": DEVICES}
    with serving(settings.model_copy(update=keys | {"data_dir": tmp_path / "data"})) as running:
        yield running


def submit(own: Server, name: str, seed: int = 0, **parameters: str) -> str:
    answer = own.http.post("/v1/evaluations", json=SLOW | {"seed": seed}, headers=key(name), params=parameters)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def queue(own: Server, name: str, **parameters: int) -> dict[str, Any]:
    return own.http.get("/v1/queue", headers=key(name), params=parameters).json()


def devices(own: Server, name: str) -> list[dict[str, Any]]:
    return own.http.get("/v1/devices", headers=key(name)).json()["devices"]


def test_a_key_sees_its_own_in_the_queue_and_others_as_counts(own: Server) -> None:
    first = submit(own, "one")
    until(lambda: queue(own, "one")["running"])
    second = submit(own, "two", seed=1)
    third = submit(own, "one", seed=2)
    mine, others, everyones = (queue(own, name) for name in ("one", "two", "owner"))
    (running,) = mine["running"]
    assert (running["evaluation"], running["device"], running["model"]) == (first, "cpu:0", "tiny")
    assert datetime.now(UTC) - datetime.fromisoformat(running["since"]) < timedelta(minutes=1)
    assert (mine["running_of_others"], others["running_of_others"], others["running"]) == (0, 1, [])
    places = {
        name: [(each["place"], each["evaluation"]) for each in found["waiting"]]
        for name, found in (("one", mine), ("two", others), ("owner", everyones))
    }
    assert places["two"] == [(1, second)]
    assert places["one"][0] == (2, third)
    assert places["owner"][:2] == [(1, second), (2, third)]
    assert others["waiting_of_others"]["evaluations"] == others["waiting_in_all"]["evaluations"] - 1
    assert everyones["waiting_of_others"] == {"evaluations": 0, "shards": 0, "passes": 0}
    assert everyones["waiting_in_all"]["passes"] == sum(each["passes"] for each in everyones["waiting"])
    assert len(queue(own, "owner", limit=1)["waiting"]) == 1


def test_a_device_says_what_it_runs_to_those_who_may_know(own: Server) -> None:
    (device,) = devices(own, "one")
    assert device == {
        "name": "cpu:0",
        "state": "idle",
        "running": None,
        "deaths": 0,
        "set_aside_until": None,
        "problem": None,
        "memory": None,
    }
    mine = submit(own, "one")
    until(lambda: devices(own, "one")[0]["state"] == "running")
    assert devices(own, "one")[0]["running"]["evaluation"] == mine
    (seen_by_other,) = devices(own, "two")
    assert (seen_by_other["state"], seen_by_other["running"]) == ("running", None)
    assert devices(own, "owner")[0]["running"]["evaluation"] == mine


def post(own: Server, path: str, name: str, **more: Any) -> httpx.Response:
    return own.http.request(more.pop("method", "POST"), f"/v1/{path}", headers=key(name), **more)


def test_an_evaluation_is_paused_and_resumed_by_its_owner_and_its_watchers_and_page_see_it(own: Server) -> None:
    mine = submit(own, "one")
    here = f"evaluations/{mine}"
    refusal(post(own, f"{here}/pause", "two"), 404)
    assert post(own, f"{here}/pause", "one").json()["status"] == "paused"
    page = own.http.get(f"/evaluations/{mine}", headers=key("one")).text
    assert '<span class="status paused">paused</span>' in page
    assert "data-live" in page
    assert mine not in {each["evaluation"] for each in queue(own, "one")["waiting"] if not each["paused"]}
    steps = [lambda: post(own, f"{here}/resume", "one"), lambda: own.http.delete(f"/v1/{here}", headers=key("one"))]
    for number, step in enumerate(steps, 1):
        Timer(number, step).start()
    with httpx.Client(base_url=own.url, headers=key("one")) as watcher:
        states = [each["status"] for each in watch(watcher, {"links": {"events": f"/v1/{here}/events"}})]
    assert (states[0], states[-1]) == ("paused", "cancelled")
    assert {*states[1:-1]} & {"pending", "running"}
    refused = refusal(post(own, f"{here}/pause", "one"), 409)
    assert refused["detail"] == (
        f"evaluation {mine} is cancelled and cannot be paused; one that is pending or running or paused can"
    )


def test_the_queue_is_paused_by_an_admin_and_nothing_is_started_meanwhile(own: Server) -> None:
    for action in ("pause", "resume"):
        refusal(post(own, f"queue/{action}", "one"), 403)
    assert post(own, "queue/pause", "owner").json()["paused"]
    mine = submit(own, "one")
    assert own.http.get(f"/v1/evaluations/{mine}", headers=key("one")).json()["status"] == "paused"
    assert post(own, f"evaluations/{mine}/resume", "one").json()["status"] == "paused", "the whole queue is"
    state = queue(own, "one")
    assert (state["paused"], state["running"], state["waiting"][0]["paused"]) == (True, [], True)
    assert not post(own, "queue/resume", "owner").json()["paused"]
    until(lambda: queue(own, "one")["running"])


def test_a_priority_comes_with_a_submission_or_later_and_is_no_part_of_the_id(own: Server) -> None:
    post(own, "queue/pause", "owner")
    first, second = submit(own, "one"), submit(own, "two", seed=1, priority="high")
    assert [each["evaluation"] for each in queue(own, "owner")["waiting"]] == [second, first]
    refusal(post(own, f"evaluations/{second}/priority", "one", method="PUT", json={"priority": "low"}), 404)
    changed = post(own, f"evaluations/{second}/priority", "two", method="PUT", json={"priority": "low"})
    assert (changed.json()["priority"], changed.json()["id"]) == ("low", second)
    assert [each["evaluation"] for each in queue(own, "owner")["waiting"]] == [first, second]
    assert submit(own, "one", priority="high") == first
    assert queue(own, "owner")["waiting"][0]["priority"] == "high"
    submit(own, "two")
    shared = refusal(post(own, f"evaluations/{first}/pause", "one"), 403)
    assert "only an admin key can pause it" in shared["detail"]
    assert post(own, f"evaluations/{first}/pause", "owner").status_code == 200
    wrong = post(own, "evaluations", "one", json=SLOW, params={"priority": "urgent"})
    assert "'low', 'normal' or 'high'" in refusal(wrong, 422)["detail"]


def test_a_failed_evaluation_is_tried_again(own: Server) -> None:
    post(own, "queue/pause", "owner")
    mine = submit(own, "one")
    refusal(post(own, f"evaluations/{mine}/retry", "one"), 409)
    own.service.dispatcher.stop()
    post(own, "queue/resume", "owner")
    while claimed := own.service.store.claim():
        own.service.store.fail(claimed.id, "out of memory")
    refusal(post(own, f"evaluations/{mine}/retry", "two"), 404)
    assert own.http.get(f"/v1/evaluations/{mine}", headers=key("one")).json()["status"] == "failed"
    again = post(own, f"evaluations/{mine}/retry", "one").json()
    assert (again["status"], again["error"]) == ("pending", None)


def test_limits_come_with_a_submission_or_later_and_are_no_part_of_the_id(own: Server) -> None:
    post(own, "queue/pause", "owner")
    mine = submit(own, "one")
    here = f"evaluations/{mine}"
    assert own.http.get(f"/v1/{here}", headers=key("one")).json()["limits"] == {
        "max_devices": None,
        "max_hours": None,
        "device_hours": 0.0,
    }
    changed = post(own, f"{here}/limits", "one", method="PUT", json={"max_devices": 2, "max_hours": 1.5}).json()
    assert (changed["id"], changed["limits"]) == (mine, {"max_devices": 2, "max_hours": 1.5, "device_hours": 0.0})
    assert submit(own, "one", max_devices="3") == mine
    assert own.http.get(f"/v1/{here}", headers=key("one")).json()["limits"]["max_devices"] == 3
    lifted = post(own, f"{here}/limits", "one", method="PUT", json={}).json()
    assert lifted["limits"]["max_devices"] is None
    other = submit(own, "two", seed=1, max_hours="0.5")
    assert own.http.get(f"/v1/evaluations/{other}", headers=key("two")).json()["limits"]["max_hours"] == 0.5
    refusal(post(own, f"{here}/limits", "two", method="PUT", json={"max_devices": 1}), 404)
    keyed = {"Idempotency-Key": "k", **key("one")}
    again = [
        own.http.post("/v1/evaluations", json=SLOW, headers=keyed, params={"max_devices": each}) for each in (2, 2, 4)
    ]
    assert [each.status_code for each in again] == [202, 202, 422]


@pytest.mark.parametrize(
    ("field", "wrong", "allowed"),
    [
        ("max_devices", 0, "greater than or equal to 1"),
        ("max_devices", 10_001, "less than or equal to 10000"),
        ("max_devices", 1.5, "valid integer"),
        ("max_hours", 0, "greater than 0"),
        ("max_hours", -1, "greater than 0"),
        ("max_hours", "soon", "valid number"),
        ("max_hours", 1e7, "less than or equal to 1000000"),
        ("hours", 1, "not permitted"),
    ],
)
def test_a_wrong_limit_is_refused_with_what_is_allowed(own: Server, field: str, wrong: object, allowed: str) -> None:
    mine = submit(own, "one")
    found = refusal(post(own, f"evaluations/{mine}/limits", "one", method="PUT", json={field: wrong}), 422)
    assert found["errors"][0]["field"] == field
    assert found["errors"][0]["received"] == repr(wrong)
    assert allowed in found["detail"]
    if field != "hours":
        given = refusal(post(own, "evaluations", "one", json=SLOW, params={field: wrong}), 422)
        assert (given["errors"][0]["field"], allowed in given["detail"]) == (field, True)
