"""What the triggers keep is what counting anew gives, whatever happened to the shards."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from service.jobs import cutting
from service.jobs.evaluations import ShardStatus
from service.jobs.failures import Fault
from service.jobs.queue import Queue
from service.jobs.store import MAX_FAILURES, Store
from service.sql.database import Database
from service.sql.tables import COUNTS, SHARDS
from tests.server import a_plan
from tests.service.jobs.stores import change, claim, complete, forget_versions, on_sqlite, read, url_of

Rows = dict[tuple[str, str], tuple[Any, ...]]


@pytest.fixture
def opened(database: Path | str) -> Iterator[Database]:
    opened = Database(url_of(database))
    yield opened
    opened.close()


def kept(opened: Database) -> Rows:
    columns = (COUNTS.c.shards, COUNTS.c.images, COUNTS.c.passes, COUNTS.c.runs, COUNTS.c.seconds)
    return _rows(opened, select(COUNTS.c.evaluation_id, COUNTS.c.status, *columns).where(COUNTS.c.shards > 0))


def recounted(opened: Database) -> Rows:
    sums = [func.sum(SHARDS.c[name]) for name in ("shards", "images", "passes", "runs")]
    columns = (*sums, func.coalesce(func.sum(SHARDS.c.seconds), 0))
    groups = select(SHARDS.c.evaluation_id, SHARDS.c.status, *columns)
    return _rows(opened, groups.group_by(SHARDS.c.evaluation_id, SHARDS.c.status))


def _rows(opened: Database, query: Any) -> Rows:
    with opened.reading() as db:
        return {(row[0], row[1]): (*row[2:-1], pytest.approx(row[-1])) for row in db.execute(query)}


@pytest.mark.parametrize("cut", [cutting.CUT_AT_FIRST, 1], ids=["cut at once", "cut one by one"])
def test_whatever_happens_the_counts_are_those_of_the_shards(
    cut: int, store: Store, opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "CUT_AT_FIRST", cut)
    monkeypatch.setattr(cutting, "CUT_AT_ONCE", cut)
    draw = random.Random(0)
    plans = [a_plan(), a_plan(1)]

    def fail(fault: Fault) -> None:
        if claimed := store.claim():
            store.fail(claimed.id, "it failed", fault)

    def break_for_good() -> None:
        for _ in range(MAX_FAILURES):
            fail(Fault.SHARD)

    def finish() -> None:
        if claimed := store.claim():
            complete(store, claimed)

    def skip() -> None:
        if claimed := store.claim():
            store.skip(claimed)

    actions: list[Callable[[], object]] = [
        *(lambda plan=plan: store.submit(plan) for plan in plans),
        *(lambda plan=plan: store.cancel(plan.id) for plan in plans),
        *(lambda plan=plan: store.remove(plan.id) for plan in plans),
        *(lambda fault=fault: fail(fault) for fault in Fault),
        store.claim,
        store.recover,
        break_for_good,
        finish,
        skip,
    ]
    seen: set[str] = set()
    for _ in range(200):
        draw.choice(actions)()
        counts = kept(opened)
        assert counts == recounted(opened)
        seen |= {status for _, status in counts}
    assert seen == set(ShardStatus), "every status was counted"


@on_sqlite
def test_a_database_without_counts_is_counted_when_it_is_opened(store: Store, opened: Database, database: Path) -> None:
    store.submit(a_plan())
    complete(store, claim(store))
    before = read(store).progress
    forget_versions(database)
    change(database, "DROP TABLE counts", "DROP INDEX shards_with_errors")
    again = Store.at(database)
    assert read(again).progress == before
    complete(again, claim(again))
    assert kept(opened) == recounted(opened)
    again.close()


def test_large_numbers_are_counted_as_integers(store: Store, database: Path | str) -> None:
    store.submit(a_plan(), owner="alice")
    change(database, "UPDATE shards SET passes = 3000000000")
    passes = Queue(store).unfinished_passes("alice")
    assert (passes, type(passes)) == (9_000_000_000, int)
    assert {type(each) for each in Queue(store).shard_counts().values()} == {int}
    claim(store)
    progress = read(store).progress
    assert progress.passes == {ShardStatus.PENDING: 6_000_000_000, ShardStatus.RUNNING: 3_000_000_000}
    assert (type(progress.images_advanced), type(progress.passes_advanced)) == (int, float)
