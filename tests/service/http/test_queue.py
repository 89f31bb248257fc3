"""The queue of evaluations over HTTP: each key sees its own, an admin key all."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from tests.server import Server, serving, until
from tests.service.http.test_callers import SLOW, key

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
