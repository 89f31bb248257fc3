"""Watched evaluations are looked at together, and each watcher is sent what has changed of its own."""

import asyncio
import time
from collections.abc import Collection
from typing import Any

import pytest

from service.http import watching
from service.http.watching import State, Watching
from service.jobs.evaluations import Status
from service.jobs.store import Store
from tests.server import a_plan
from tests.service.jobs.stores import change, claim, on_sqlite, read, url_of

FEW = range(5)


class Counted(Store):
    """A store that says how often it was asked for evaluations."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.database)
        self.asked: list[Collection[str]] = []

    def evaluations_among(self, evaluation_ids: Collection[str]) -> Any:
        """Count."""
        self.asked.append(evaluation_ids)
        return super().evaluations_among(evaluation_ids)


class Slow(Store):
    """A store that takes its time."""

    def evaluations_among(self, evaluation_ids: Collection[str]) -> Any:
        """Wait first."""
        time.sleep(0.2)
        return super().evaluations_among(evaluation_ids)


async def all_of(watched: Watching) -> list[State | None]:
    """What ten watchers of each of the few receive at the same time."""
    return await asyncio.gather(*(watched.latest(a_plan(number).id) for number in FEW for _ in range(10)))


@on_sqlite
def test_the_database_is_asked_once_for_all_who_came_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(store)
    for number in FEW:
        store.submit(a_plan(number))

    async def watch() -> None:
        watched = Watching(counted, "")
        first = await all_of(watched)
        assert {each.view.id for each in first if each} == {a_plan(number).id for number in FEW}
        assert await all_of(watched) == first
        assert [{*ids} for ids in counted.asked[1:]] == [{a_plan(number).id for number in FEW}], "after the first one's"
        claim(store)
        monkeypatch.setattr(watching, "POLL_S", 0)
        second = await watched.latest(a_plan(0).id)
        assert second and second.view.status is Status.RUNNING
        others = [each for each in await all_of(watched) if each and each.view.id != a_plan(0).id]
        assert all(each in first for each in others), "what has not changed is not described anew"

    asyncio.run(watch())


@on_sqlite
def test_what_is_no_longer_watched_is_no_longer_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(store)
    for number in FEW:
        store.submit(a_plan(number))

    async def watch() -> None:
        watched = Watching(counted, "")
        await all_of(watched)
        monkeypatch.setattr(watching, "POLL_S", 0)
        monkeypatch.setattr(watching, "WATCHED_S", 0.2)
        await asyncio.sleep(0.3)
        await watched.latest(a_plan(1).id)
        assert counted.asked[-1] == [a_plan(1).id]

    asyncio.run(watch())


@on_sqlite
def test_a_watcher_that_waits_for_others_receives_its_state(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "WATCHED_S", 0.1)
    for number in FEW:
        store.submit(a_plan(number))
    assert all(asyncio.run(all_of(Watching(Slow(store.database), ""))))


def test_one_that_is_removed_or_damaged_ends_for_its_own_watchers_alone(store: Store, database: Any) -> None:
    for number in FEW:
        store.submit(a_plan(number))
    store.cancel(a_plan(0).id)
    store.remove(a_plan(0).id)
    change(database, f"UPDATE evaluations SET plan = '{{}}' WHERE id = '{a_plan(1).id}'")
    opened = Store.at(url_of(database))

    async def watch() -> None:
        received = await all_of(Watching(opened, ""))
        assert [each.view.id if each else None for each in received[::10]] == [
            None,
            None,
            *(read(store, number).id for number in FEW[2:]),
        ]

    asyncio.run(watch())
    opened.close()
