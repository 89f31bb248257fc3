"""The latest failures: of all, and of those that an owner asked for."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from service.jobs.evaluations import Limits, ShardStatus
from service.jobs.queries import forget_plan
from service.jobs.queue import Queue
from service.jobs.shards import DAMAGED_RESULT
from service.jobs.store import MAX_FAILURES, Store
from tests.server import a_plan
from tests.service.jobs.stores import change, claim, complete, on_sqlite

MANY = 2_000


def causes(store: Store, owner: str | None = None, limit: int = 20) -> list[tuple[str, str]]:
    return [(each.evaluation_id, each.cause) for each in Queue(store).failures(limit=limit, owner=owner)]


def test_the_latest_failure_comes_first_with_its_tries_and_time(store: Store) -> None:
    store.submit(a_plan(0, images=100))
    store.submit(a_plan(1, images=100))
    for number in range(MAX_FAILURES):
        store.fail(claim(store).id, f"failure {number}")
        store.fail(claim(store).id, f"of another, {number}")
    latest, first = Queue(store).failures(limit=20)
    assert (latest.evaluation_id, latest.cause) == (a_plan(1).id, f"of another, {MAX_FAILURES - 1}")
    assert (first.tries, first.status, first.shard.images) == (MAX_FAILURES, ShardStatus.FAILED, 100)
    assert first.failed_at <= latest.failed_at
    assert causes(store, limit=1) == [(a_plan(1).id, f"of another, {MAX_FAILURES - 1}")]


def test_a_failure_is_listed_until_the_next_try(store: Store) -> None:
    store.submit(a_plan(images=100))
    store.fail(claim(store).id, "a passing trouble")
    (failure,) = Queue(store).failures(limit=20)
    assert (failure.status, failure.tries, failure.cause) == (ShardStatus.PENDING, 1, "a passing trouble")
    again = claim(store)
    assert causes(store) == []
    store.fail(again.id, "another trouble")
    store.cancel(a_plan().id)
    assert [each.status for each in Queue(store).failures(limit=20)] == [ShardStatus.DROPPED]


def test_whatever_fails_for_good_has_a_time(database: Path | str, store: Store) -> None:
    """A damaged result, a damaged plan, and a limit that is reached."""
    for number in range(3):
        store.submit(a_plan(number, images=100))
    Queue(store).limit(a_plan(2).id, Limits(max_hours=1.0))
    Queue(store).spend({a_plan(2).id: 3601.0})
    complete(store, claim(store))
    change(database, "UPDATE results SET result = '{'")
    assert store.results(a_plan(0).id) == []
    change(database, f"UPDATE evaluations SET plan = '{{' WHERE id = '{a_plan(1).id}'")
    with store.database.reading() as db:
        forget_plan(db, a_plan(1).id)
    assert store.claim() is None
    found = Queue(store).failures(limit=20)
    assert [each.evaluation_id for each in found] == [a_plan(each).id for each in (1, 0, 2)]
    assert found[1].cause == DAMAGED_RESULT
    assert Queue(store).specs([a_plan(each).id for each in (0, 1, 99)]) == {a_plan(0).id: a_plan(0).spec}


def test_an_owner_sees_the_failures_of_what_it_asked_for(store: Store) -> None:
    for number, owner in enumerate(("one", "two", "one")):
        store.submit(a_plan(number, images=100), owner=owner)
        for _ in range(MAX_FAILURES):
            store.fail(claim(store).id, f"failure of {number}")
    store.submit(a_plan(0), owner="two")
    for _ in range(MAX_FAILURES):
        store.fail(claim(store).id, "failure of 0, which both asked for")
    mine = [(a_plan(0).id, "failure of 0, which both asked for"), (a_plan(2).id, "failure of 2")]
    assert causes(store, "one") == mine
    assert causes(store, "two") == [mine[0], (a_plan(1).id, "failure of 1")]
    assert causes(store, "three") == []
    store.remove(a_plan(0).id)
    assert causes(store, "one") == mine[1:]


def test_unfinished_evaluations_come_in_the_order_of_devices(store: Store) -> None:
    for number, owner in enumerate(("one", "two", "one", "one")):
        store.submit(a_plan(number, images=100), owner=owner)
    complete(store, claim(store))
    Queue(store).pause_evaluation(a_plan(1).id)
    claim(store)
    order = [a_plan(each).id for each in (2, 3, 1)]
    assert [each.id for each in Queue(store).unfinished(limit=9)] == order
    assert [each.id for each in Queue(store).unfinished(limit=1, owner="one")] == order[:1]
    assert [each.id for each in Queue(store).unfinished(limit=9, owner="two")] == order[2:]
    assert [each.id for each in store.evaluations(ended=True)] == [a_plan(0).id]
    assert store.evaluations(ended=True, owner="two") == []


@on_sqlite
@pytest.mark.parametrize("owner", [None, "one"])
def test_listing_failures_does_not_look_at_all_shards(store: Store, owner: str | None) -> None:
    store.submit(a_plan(images=100 * MANY), owner="two")
    asked: list[tuple[str, Any]] = []
    with store.database.reading() as db:
        event.listen(db.engine, "before_cursor_execute", lambda *given: asked.append(given[2:4]))
    Queue(store).failures(limit=20, owner=owner)
    with store.database.reading() as db:
        statement, parameters = next(each for each in asked if "shards" in each[0])
        plan = " ".join(str(row) for row in db.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters))
    assert "SCAN shards USING INDEX shards_by_failure" in plan or "SEARCH shards USING INDEX shards_with_errors" in plan
    assert "SCAN owners" not in plan
    assert owner or "USE TEMP B-TREE FOR ORDER BY" not in plan, "the index is in the order that is asked for"
