"""A database that is locked, full, removed or damaged: the reason is said, one bad row stops one thing, and the server lives."""

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from service.jobs import queries
from service.jobs.evaluations import Damaged, Status
from service.jobs.queue import Queue
from service.jobs.store import Store
from service.settings import Settings
from service.sql.database import Database
from tests.server import Server, a_plan, a_result, serving, until
from tests.service.health import require_health
from tests.service.jobs.stores import change, claim, complete, drain, on_sqlite, read

CLEAN = {"models": ["tiny"], "dataset": "shapes", "conditions": [{"kind": "clean"}]}


@pytest.fixture
def own(settings: Settings, tmp_path: Path, database: Path | str) -> Iterator[Server]:
    where = {"data_dir": tmp_path, "database_url": database if isinstance(database, str) else None}
    with serving(settings.model_copy(update=where)) as running:
        yield running


def damage_plan(database: Path | str, evaluation_id: str) -> None:
    """Damage a plan, and let it be read as by a process that has just started."""
    change(database, f"UPDATE evaluations SET plan = '{{' WHERE id = '{evaluation_id}'")
    queries._PLANS.clear()


def test_one_unreadable_plan_is_named_and_the_others_run(own: Server, settings: Settings) -> None:
    done = own.http.post("/v1/evaluations", json=CLEAN).json()["id"]
    until(lambda: own.http.get(f"/v1/evaluations/{done}").json()["status"] == "done")
    own.service.store.submit(a_plan(1))
    until(lambda: read(own.service.store, 1).status.final)
    damage_plan(own.service.settings.database, a_plan(1).id)
    listed = own.http.get("/v1/evaluations").json()
    assert [each["id"] for each in listed["evaluations"]] == [done]
    assert [each["name"] for each in listed["damaged"]] == [a_plan(1).id]
    assert "its stored plan cannot be read" in own.http.get("/").text
    assert own.http.get("/readyz").status_code == 200
    answer = own.http.get(f"/v1/evaluations/{a_plan(1).id}")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "its stored plan cannot be read" in answer.json()["detail"]
    later = own.http.post("/v1/evaluations", json=CLEAN | {"seed": 3}).json()["id"]
    until(lambda: own.http.get(f"/v1/evaluations/{later}").json()["status"] == "done")


@pytest.mark.parametrize("params", [{"results": "true"}, {}])
def test_an_evaluation_whose_plan_is_unreadable_can_be_removed_and_cancelled(
    own: Server, params: dict[str, str]
) -> None:
    own.service.store.submit(a_plan(1))
    damage_plan(own.service.settings.database, a_plan(1).id)
    answer = own.http.delete(f"/v1/evaluations/{a_plan(1).id}", params=params)
    assert answer.status_code == 200, answer.text
    assert answer.json()["name"] == a_plan(1).id
    assert "its stored plan cannot be read" in answer.json()["problem"]
    damaged = own.http.get("/v1/evaluations").json()["damaged"]
    assert [each["name"] for each in damaged] == ([] if params else [a_plan(1).id])


def test_a_damaged_evaluation_of_another_caller_is_not_there(settings: Settings, tmp_path: Path) -> None:
    keys = {"api_keys": frozenset({"user", "other"}), "admin_keys": frozenset({"admin"}), "data_dir": tmp_path / "keys"}
    with serving(settings.model_copy(update=keys)) as running:
        running.http.headers["X-API-Key"] = "user"
        done = running.http.post("/v1/evaluations", json=CLEAN).json()["id"]
        damage_plan(running.service.settings.database, done)
        for method in ("GET", "DELETE"):
            url, others = f"/v1/evaluations/{done}", {"X-API-Key": "other"}
            assert running.http.request(method, url, headers=others).status_code == 404
        assert running.http.get(f"/v1/evaluations/{done}").status_code == 500


def test_shards_of_an_unreadable_plan_fail_and_are_not_in_the_way(store: Store, database: Path | str) -> None:
    store.submit(a_plan(0))
    store.submit(a_plan(1))
    change(database, f"UPDATE evaluations SET plan = '{{}}' WHERE id = '{a_plan(0).id}'")
    assert {each.evaluation_id for each in drain(store)} == {a_plan(1).id}
    newest, damaged = store.evaluations()
    assert newest.id == a_plan(1).id
    assert isinstance(damaged, Damaged)
    assert Queue(store).waiting_for("tiny") == []
    assert isinstance(store.remove(a_plan(0).id), Damaged)
    assert [each.id for each in store.evaluations()] == [a_plan(1).id]


@pytest.mark.parametrize("column", ["tally", "result"])
def test_a_damaged_result_fails_its_shard_alone_and_can_be_computed_anew(
    store: Store, database: Path | str, column: str
) -> None:
    store.submit(a_plan())
    first, second, third = drain(store)
    address = first.plan.address(second.shard)
    change(database, f"UPDATE results SET {column} = 'x' || {column} WHERE address = '{address}'")
    if column == "tally":
        tallies, finished = store.finished_after(a_plan().id, 0)
        assert ([each.shard for each in tallies], finished) == ([first.shard, third.shard], 3)
    else:
        assert [each.shard for each in store.results(a_plan().id)] == [first.shard, third.shard]
    found = read(store)
    assert (found.status, found.progress.error is not None) == (Status.FAILED, True)
    assert "cannot be read and was set aside" in str(found.progress.error)
    assert store.submit(a_plan())
    again = claim(store)
    assert (again.shard, complete(store, again)) == (second.shard, True)
    assert sorted(store.results(a_plan().id), key=lambda each: each.shard.start) == [
        a_result(each.shard) for each in (first, second, third)
    ]


@on_sqlite
def test_health_answers_while_the_database_is_locked(own: Server) -> None:
    url = f"{own.url}/v1/evaluations"

    def submit_many() -> None:
        began = time.monotonic()
        with ThreadPoolExecutor(45) as threads:
            bodies = [CLEAN | {"seed": seed} for seed in range(45)]
            answers = [*threads.map(lambda body: httpx.post(url, json=body, timeout=60), bodies)]
        assert time.monotonic() - began < 20, "about two rounds of forty threads"
        assert {each.status_code for each in answers} == {503}
        assert all("database is locked" in each.json()["detail"] for each in answers)

    with closing(sqlite3.connect(own.service.settings.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        require_health(own.url, submit_many)
        other.execute("ROLLBACK")
    assert own.http.post("/v1/evaluations", json=CLEAN).status_code == 202, "it recovers by itself"


@on_sqlite
def test_a_database_that_is_removed_while_it_is_used_is_noticed(own: Server) -> None:
    own.http.post("/v1/evaluations", json=CLEAN)
    own.service.settings.database.unlink()
    refused = own.http.post("/v1/evaluations", json=CLEAN | {"seed": 1})
    assert refused.status_code == 503
    assert "was removed or replaced while it was in use" in refused.json()["detail"]
    assert own.http.get("/readyz").status_code == 503
    assert own.http.get("/healthz").status_code == 200
    assert not own.service.settings.database.exists(), "no empty one is made in its place"


@on_sqlite
def test_a_full_disk_is_said_and_what_was_stored_stays(
    store: Store, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.submit(a_plan())
    complete(store, claim(store))
    with closing(sqlite3.connect(database)) as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
    small = Database(f"sqlite:///{database}")
    with small.writing() as db:
        db.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    monkeypatch.setattr(store, "database", small)
    with pytest.raises(RuntimeError, match=r"the database .* cannot be used: database or disk is full"):
        store.submit(a_plan(1, images=100_000))
    assert [each.id for each in store.evaluations()] == [a_plan().id]
    assert len(store.results(a_plan().id)) == 1
    small.close()
