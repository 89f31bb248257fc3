"""Commands that change evaluations and the queue, at a service and in its folder."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from service.http.routes.queue import DeviceList, QueueView
from service.jobs.evaluations import Limits, Priority
from service.jobs.queue import Queue
from service.jobs.store import Store
from service.settings import Settings
from tests.command import Run
from tests.server import Server, a_plan, serving, until
from tests.service.http.asked import PGD, submitted
from tests.service.http.test_costly import costly
from tests.service.jobs.stores import read


@pytest.fixture
def own(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that needs a key, which the environment has."""
    monkeypatch.setenv("WITHSTAND_API_KEY", "owner")
    keys = {"api_keys": frozenset({"user"}), "admin_keys": frozenset({"owner"})}
    with serving(settings.model_copy(update=keys | {"data_dir": tmp_path / "data"})) as running:
        running.http.headers["X-API-Key"] = "owner"
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.at(tmp_path / "withstand.db")) as opened:
        yield opened


def test_an_evaluation_of_a_service_is_changed(own: Server, run: Run) -> None:
    there = ["--server", own.url]
    paused = run("queue", "pause", *there)
    assert paused.out.startswith("The queue is paused: running shards are finished, no others are started.\n")
    mine = submitted(own.http, conditions=[PGD])["id"]

    def state() -> dict[str, object]:
        return own.http.get(f"/v1/evaluations/{mine}").json()

    assert run("evaluations", "priority", mine, "high", *there).status == 0
    assert run("evaluations", "limit", mine, "--max-devices", 2, "--max-hours", 0.5, *there).status == 0
    assert state()["priority"] == "high"
    assert state()["limits"] == {"max_devices": 2, "max_hours": 0.5, "device_hours": 0.0}
    assert run("evaluations", "pause", mine, *there).out.startswith(f"{mine}: paused, 0 of 6 rows, tiny on shapes, 20")
    assert "Nothing runs." in run("queue", "resume", *there).out
    assert state()["status"] == "paused"
    assert run("evaluations", "cancel", mine, *there).out.startswith(f"{mine}: cancelled, ")
    refused = run("evaluations", "resume", mine, *there)
    assert (refused.status, refused.out) == (2, "")
    assert "is cancelled and cannot be resumed; one that is pending or running or paused can" in refused.err
    again = run("evaluations", "retry", mine, *there)
    assert (again.status, "is cancelled and cannot be retried; one that is failed can" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["priority", "ID", "urgent"], "PRIORITY must be low, normal or high, got 'urgent'"),
        (["limit", "ID", "--max-devices", "0"], "greater than or equal to 1"),
        (["limit", "ID", "--max-hours", "-1"], "greater than 0"),
        (["pause", "f" * 16], "there is no evaluation 'ffffffffffffffff'"),
        (["pause"], "Missing argument 'ID'"),
    ],
)
def test_what_is_wrong_is_said_and_ends_with_2(
    run: Run, tmp_path: Path, store: Store, arguments: list[str], expected: str
) -> None:
    store.submit(a_plan())
    given = [a_plan().id if each == "ID" else each for each in arguments]
    refused = run("evaluations", *given, "--data-dir", tmp_path)
    assert (refused.status, refused.out) == (2, "")
    assert expected in " ".join(refused.err.split())


def test_an_evaluation_in_the_folder_of_a_service_is_changed(run: Run, tmp_path: Path, store: Store) -> None:
    there = ["--data-dir", tmp_path]
    for number in range(2):
        store.submit(a_plan(number))
    mine = a_plan(1).id
    run("evaluations", "priority", mine, "low", *there)
    run("evaluations", "limit", mine, "--max-hours", 2, *there)
    assert (read(store, 1).priority, read(store, 1).limits) == (Priority.LOW, Limits(max_hours=2.0))
    assert run("evaluations", "pause", mine, *there).out.startswith(f"{mine}: paused")
    assert run("evaluations", "resume", mine, *there).out.startswith(f"{mine}: pending")
    assert run("evaluations", "cancel", mine, *there).out.startswith(f"{mine}: cancelled")
    refused = run("evaluations", "retry", mine, *there)
    assert (refused.status, refused.out) == (2, "")
    assert "is cancelled and cannot be retried; one that is failed can" in refused.err
    run("queue", "pause", *there)
    assert Queue(store).paused
    listed = QueueView.model_validate_json(run("queue", "--json", *there).out)
    assert [each.evaluation for each in listed.waiting] == [a_plan(0).id]
    assert "paused" not in run("queue", "resume", *there).out
    assert DeviceList.model_validate_json(run("devices", "--json", *there).out).devices == []
    assert run("devices", *there).out.startswith("Nothing is there.")


@pytest.mark.timeout(60)
def test_what_runs_and_what_waits_fits_80_columns(
    own: Server, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    there = ["--server", own.url]
    assert " idle" in run("devices", *there).out
    first = submitted(own.http, conditions=[costly()])["id"]
    until(lambda: own.http.get("/v1/queue").json()["running"])
    second = submitted(own.http, conditions=[PGD], seed=1)["id"]
    own.http.post("/v1/evaluations", json={"models": ["tiny"], "dataset": "shapes"}, headers={"X-API-Key": "user"})
    queue, devices = run("queue", *there).out, run("devices", *there).out
    for shown in (queue, devices):
        assert max(map(len, shown.splitlines())) <= 80
        assert first in shown
    assert second in queue
    assert "normal" in queue
    key = tmp_path / "key"
    key.write_text("user\n")
    limited = run("queue", *there, "--api-key-file", key).out
    assert first not in limited
    assert " ".join(limited.split()).count("Of others, 1 shards run, and") == 1
    assert json.loads(run("queue", "--json", *there).out)["running"][0]["evaluation"] == first
    assert json.loads(run("devices", "--json", *there).out)["devices"][0]["state"] == "running"
    run("evaluations", "cancel", first, *there)
    print(f"{queue}\n{devices}\n{limited}")
