"""A device or a dispatcher that fails by itself costs no shard."""

from collections.abc import Collection
from concurrent.futures import Future
from threading import Event
from typing import Any

import pytest
from pebble import ProcessExpired

from evaluation import Catalog
from service.jobs.evaluations import Status
from service.jobs.store import MAX_FAILURES, Store
from tests.server import DEADLINE_S, until
from tests.service.jobs.dispatching import Start, Threads, plan_of, read
from tests.service.jobs.stores import on_sqlite


class Dying(Threads):
    """Its process ends before it touches a shard, until it is well."""

    def __init__(self) -> None:
        super().__init__()
        self.well = False
        self.deaths = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.well:
            return super().submit(*args, **kwargs)
        self.deaths += 1
        dead: Future[Any] = Future()
        dead.set_exception(ProcessExpired("Abnormal termination", code=-9, pid=1))
        return dead


@on_sqlite
def test_a_device_whose_process_dies_by_itself_gets_a_pause_and_fails_no_shard(
    store: Store, catalog: Catalog, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.jobs.dispatcher.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("service.jobs.dispatcher.LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr("service.jobs.dispatcher.POLL_S", 0.005)
    plans = [plan_of(catalog, images=3, seed=seed) for seed in range(12)]
    for plan in plans:
        store.submit(plan)
    with Dying() as dying:
        start({"cpu": dying})
        until(lambda: dying.deaths > 3 * MAX_FAILURES)
        assert not any(read(store, plan).status.final for plan in plans)
        dying.well = True
        until(lambda: all(read(store, plan).status is Status.DONE for plan in plans))
    assert "was killed by SIGKILL before it began the shard" in caplog.text
    assert "cpu gets no work for 0.05 s" in caplog.text


def test_a_dispatcher_that_was_not_seen_is_replaced_and_can_write_nothing_when_it_wakes(
    store: Store, catalog: Catalog, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is stopped in the middle of a look at its shard, as a process is by SIGSTOP."""
    monkeypatch.setattr("service.jobs.store.STALE_S", 2.0)
    monkeypatch.setattr("service.jobs.dispatcher.BEAT_S", 0.1)
    plan = plan_of(catalog, images=3)
    stopped, wake, unwanted = Event(), Event(), Store.unwanted

    def stop_the_first(self: Store, running: Collection[int]) -> set[int]:
        if not stopped.is_set():
            stopped.set()
            assert wake.wait(DEADLINE_S)
        return unwanted(self, running)

    with Threads() as busy, Threads() as free:
        busy.submit(wake.wait, DEADLINE_S)
        first = start({"cpu": busy})
        until(first.active.is_set)
        monkeypatch.setattr(Store, "unwanted", stop_the_first)
        store.submit(plan)
        until(stopped.is_set)
        second = start({"cpu": free})
        until(second.active.is_set)
        until(lambda: read(store, plan).status is Status.DONE)
        wake.set()
        until(lambda: not first.active.is_set())
        assert "another process has taken the dispatch over; waiting as standby" in caplog.text
        assert second.active.is_set()
        later = plan_of(catalog, images=4)
        store.submit(later)
        until(lambda: read(store, later).status is Status.DONE)
        second.stop()
        until(first.active.is_set)
    assert len(free.futures) == 2
    assert read(store, plan).progress.runs == 2
