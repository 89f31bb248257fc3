"""Evaluations that have ended are removed by age and by the size of results, in small transactions, and nothing else is."""

import logging
from pathlib import Path

import pytest
from sqlalchemy import func, select

from evaluation.plan import Shard
from service.jobs.evaluations import Status
from service.jobs.queue import Queue
from service.jobs.removal import purge, retention
from service.jobs.removal.retention import DAY_S, KEPT_S, Retention
from service.jobs.store import Store
from service.settings import Settings
from service.sql.tables import DELIVERIES, EVALUATIONS, RESULTS, SHARDS
from tests.server import a_plan, serving, until
from tests.service.http.asked import finished
from tests.service.jobs.stores import change, claim, complete, connected, drain, on_sqlite, read

SHARDS_EACH = 3


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a sweep look each time, and do all that is due."""
    monkeypatch.setattr(retention, "SWEEP_S", 0.0)
    monkeypatch.setattr(retention, "BUDGET_S", 60.0)


@pytest.fixture
def finish(store: Store, database: Path | str) -> None:
    """Three evaluations of three shards, of which the first ended three days ago, the second two and the third one."""
    for number in range(3):
        store.submit(a_plan(number))
        drain(store)
    Retention().sweep(store)
    for number in range(3):
        age = (3 - number) * DAY_S
        change(database, f"UPDATE evaluations SET ended_at = ended_at - {age} WHERE id = '{a_plan(number).id}'")


def stored(store: Store) -> list[int]:
    return sorted(int(each.id, 16) for each in store.evaluations())


def sizes(database: Path | str) -> list[int]:
    with connected(database) as db:
        return list(db.execute(select(RESULTS.c.bytes)).scalars())


def rows(database: Path | str) -> int:
    with connected(database) as db:
        return sum(db.execute(select(func.count()).select_from(each)).scalar_one() for each in (SHARDS, RESULTS))


@pytest.mark.usefixtures("finish")
def test_what_ended_long_ago_is_removed_and_said(
    store: Store, database: Path | str, caplog: pytest.LogCaptureFixture
) -> None:
    Retention().sweep(store)
    assert stored(store) == [0, 1, 2]
    caplog.set_level(logging.INFO)
    Retention(keep_days=1.5).sweep(store)
    assert stored(store) == [2]
    assert rows(database) == 2 * SHARDS_EACH
    said = [each.getMessage() for each in caplog.records if "is removed" in each.getMessage()]
    assert [each.split()[1] for each in said] == [a_plan(0).id, a_plan(1).id]
    assert said[0].endswith("UTC and is removed: it is kept for 1.5 days")


@pytest.mark.usefixtures("finish")
def test_the_oldest_go_until_results_take_no_more_than_they_may(store: Store, database: Path | str) -> None:
    each = sum(sizes(database)) / 3
    with connected(database) as db:
        texts = db.execute(select(RESULTS.c.tally, RESULTS.c.result, RESULTS.c.bytes))
        assert all(len(row.tally.encode()) + len(row.result.encode()) == row.bytes > 0 for row in texts)
    Retention(keep_gb=3.1 * each / 1e9).sweep(store)
    assert stored(store) == [0, 1, 2]
    Retention(keep_gb=2.1 * each / 1e9).sweep(store)
    assert stored(store) == [1, 2]
    Retention(keep_gb=0.1 * each / 1e9).sweep(store)
    assert (stored(store), rows(database)) == ([], 0)


def test_what_has_just_ended_stays_whatever_its_size(store: Store, database: Path | str) -> None:
    store.submit(a_plan())
    drain(store)
    Retention(keep_gb=1e-9).sweep(store)
    assert stored(store) == [0]
    change(database, f"UPDATE evaluations SET ended_at = ended_at - {KEPT_S + 1}")
    Retention(keep_gb=1e-9).sweep(store)
    assert stored(store) == []


def test_nothing_unfinished_is_removed_also_after_it_ended_once(store: Store, database: Path | str) -> None:
    for number in range(3):
        store.submit(a_plan(number))
    complete(store, claim(store))
    Queue(store).pause_evaluation(a_plan(1).id)
    store.cancel(a_plan(2).id)
    Retention().sweep(store)
    change(database, f"UPDATE evaluations SET ended_at = {DAY_S} WHERE id = '{a_plan(2).id}'")
    store.submit(a_plan(2))
    Retention(keep_days=0.001, keep_gb=1e-9).sweep(store)
    assert stored(store) == [0, 1, 2]
    assert len(store.results(a_plan(0).id)) == 1
    store.cancel(a_plan(2).id)
    Retention().sweep(store)
    change(database, f"UPDATE evaluations SET ended_at = {DAY_S} WHERE id = '{a_plan(2).id}'")
    Retention(keep_days=1).sweep(store)
    assert stored(store) == [0, 1]


def test_results_that_another_evaluation_has_too_stay(store: Store, database: Path | str) -> None:
    store.submit(a_plan(0))
    drain(store)
    same = a_plan(0).model_copy(update={"id": a_plan(1).id})
    store.submit(same)
    assert read(store, 1).status is Status.DONE
    Retention().sweep(store)
    change(database, f"UPDATE evaluations SET ended_at = {DAY_S} WHERE id = '{a_plan(0).id}'")
    Retention(keep_days=1).sweep(store)
    assert stored(store) == [1]
    assert len(store.results(a_plan(1).id)) == SHARDS_EACH


@pytest.mark.usefixtures("finish")
def test_an_evaluation_whose_webhook_is_not_delivered_stays(store: Store, database: Path | str) -> None:
    with connected(database) as db:
        row = {"id": "msg", "evaluation_id": a_plan(0).id, "owner": "", "url": "https://a", "tries": 0, "due_at": 0.0}
        db.execute(DELIVERIES.insert().values(**row))
    Retention(keep_days=0.5).sweep(store)
    assert stored(store) == [0]


@pytest.mark.usefixtures("finish")
def test_a_removal_that_was_interrupted_is_finished_and_hidden_meanwhile(
    store: Store, database: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "PURGED_SHARDS", 1)
    monkeypatch.setattr(retention, "BUDGET_S", 0.0)
    keeping = Retention(keep_days=2.5)
    for _ in range(2):
        keeping.sweep(store)
    assert SHARDS_EACH * 4 < rows(database) < SHARDS_EACH * 6
    assert (stored(store), store.evaluation(a_plan(0).id), store.remove(a_plan(0).id)) == ([1, 2], None, None)
    assert rows(database) == SHARDS_EACH * 4
    Retention(keep_days=1.5).sweep(store)
    assert (stored(store), rows(database)) == ([2], SHARDS_EACH * 4)
    monkeypatch.setattr(retention, "BUDGET_S", 60.0)
    Retention().sweep(store)
    assert rows(database) == SHARDS_EACH * 2
    with connected(database) as db:
        assert db.execute(select(func.count()).select_from(EVALUATIONS)).scalar() == 1


@pytest.mark.usefixtures("finish")
def test_what_is_submitted_while_it_is_being_removed_is_computed_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "PURGED_SHARDS", 1)
    monkeypatch.setattr(retention, "BUDGET_S", 0.0)
    keeping = Retention(keep_days=2.5)
    with store.writing() as db:
        purge.mark_removed(db, EVALUATIONS.c.id == a_plan(0).id)
        purge.purge_some(db, a_plan(0).id)
    assert store.submit(a_plan(0))
    monkeypatch.setattr(retention, "BUDGET_S", 60.0)
    keeping.sweep(store)
    assert stored(store) == [0, 1, 2]
    assert (read(store, 0).status, len(drain(store))) == (Status.PENDING, SHARDS_EACH)
    assert [each.shard for each in store.results(a_plan(0).id)] == a_plan(0).shards


@on_sqlite
def test_the_file_shrinks(store: Store, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.sql.sqlite.SPARE_PAGES", 50)
    plan = a_plan(images=20_000)
    store.submit(plan)
    drain(store)
    Retention().sweep(store)
    with connected(database) as db:
        db.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    before = database.stat().st_size
    change(database, f"UPDATE evaluations SET ended_at = {DAY_S}")
    monkeypatch.setattr(retention, "BUDGET_S", 60.0)
    Retention(keep_days=1).sweep(store)
    with connected(database) as db:
        db.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    print(f"{before:,} bytes before, {database.stat().st_size:,} after")
    assert before > 2_000_000
    assert database.stat().st_size < 500_000


def test_a_server_keeps_to_its_settings(settings: Settings, tmp_path: Path) -> None:
    changed = {"data_dir": tmp_path / "data", "keep_days": 1e-6}
    with serving(settings.model_copy(update=changed)) as own:
        done = finished(own.http, conditions=[{"kind": "clean"}])
        until(lambda: own.http.get(done["links"]["self"]).status_code == 404)
        assert own.http.get("/v1/evaluations").json()["evaluations"] == []


def test_wrong_settings_are_refused() -> None:
    for name in ("keep_days", "keep_gb"):
        for wrong in ("0", "-1", "nan", "inf", "many"):
            with pytest.raises(ValueError, match=name):
                Settings.model_validate({name: wrong})


def test_removing_a_large_evaluation_takes_many_small_transactions(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.submit(a_plan(images=120_000))
    store.cancel(a_plan().id)
    sizes: list[int] = []
    some = purge.purge_some
    monkeypatch.setattr("service.jobs.store.purge_some", lambda db, each: (sizes.append(1), some(db, each))[1])
    store.remove(a_plan().id)
    assert len(sizes) == 120_000 // 100 // purge.PURGED_SHARDS + 2
    assert store.result(a_plan().id, Shard(model="tiny", condition=0, start=0, stop=100)) is None
