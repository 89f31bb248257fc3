"""The queue of evaluations: what runs where, and what waits in which order."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from pebble import ProcessExpired

from evaluation import Catalog
from service.jobs.evaluations import Status
from service.jobs.queue import Queue, Waiting
from service.jobs.store import Store
from tests.server import a_plan, until
from tests.service.jobs.dispatching import Start, Threads, plan_of
from tests.service.jobs.dispatching import read as read_plan
from tests.service.jobs.stores import complete


@pytest.fixture
def queue(store: Store) -> Queue:
    return Queue(store)


@pytest.fixture
def dispatching(store: Store) -> Store:
    """The store of a dispatcher with two devices."""
    taken = store.take_dispatch(locked=False)
    assert taken is not None
    Queue(taken).begin(["cpu:0", "cpu:1"])
    return taken


def order(queue: Queue) -> list[int]:
    return [int(each.evaluation_id, 16) for each in queue.waiting()]


def test_what_waits_is_listed_in_the_order_in_which_it_is_handed_out(store: Store, queue: Queue) -> None:
    for number in range(3):
        store.submit(a_plan(number))
    handed_out: list[int] = []
    expected: list[int] = []
    while waiting := order(queue):
        expected.append(waiting[0])
        claimed = store.claim()
        assert claimed is not None
        handed_out.append(int(claimed.evaluation_id, 16))
    assert handed_out == expected == [0, 1, 2] * 3


def test_what_waits_is_counted(store: Store, queue: Queue) -> None:
    store.submit(a_plan())
    passes = a_plan().passes
    assert queue.waiting() == [Waiting(a_plan().id, shards=3, passes=passes)]
    store.claim()
    assert queue.waiting() == [Waiting(a_plan().id, shards=2, passes=passes * 150 // 250)]


def test_a_device_shows_the_shard_that_it_runs_as_long_as_it_does(dispatching: Store, queue: Queue) -> None:
    dispatching.submit(a_plan())
    claimed = dispatching.claim("cpu:1")
    assert claimed is not None
    dispatching.advance({claimed.id: 30})
    idle, busy = queue.devices()
    assert (idle.name, idle.running, idle.online) == ("cpu:0", None, True)
    assert busy.running is not None
    assert (busy.running.evaluation_id, busy.running.shard, busy.running.images_done) == (
        a_plan().id,
        claimed.shard,
        30,
    )
    complete(dispatching, claimed)
    assert [each.running for each in queue.devices()] == [None, None]


def test_a_device_whose_dispatcher_is_not_seen_is_offline(dispatching: Store, queue: Queue) -> None:
    dispatching.submit(a_plan())
    dispatching.claim("cpu:0")
    dispatching.leave_dispatch()
    assert [(each.online, each.running) for each in queue.devices()] == [(False, None)] * 2


class Dead(Threads):
    """Its process ends before it touches a shard, until it is well."""

    well = False

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.well:
            return super().submit(*args, **kwargs)
        dead: Future[Any] = Future()
        dead.set_exception(ProcessExpired("Abnormal termination", code=-9, pid=1))
        return dead


def test_a_device_that_is_set_aside_says_until_when_and_why(
    store: Store, queue: Queue, catalog: Catalog, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(catalog, images=3)
    store.submit(plan)
    with Dead() as dead:
        start({"cpu": dead})
        until(lambda: any(each.set_aside_until for each in queue.devices()))
        (device,) = queue.devices()
        assert device.deaths >= 1
        assert "was killed by SIGKILL before it began the shard" in str(device.problem)
        dead.well = True
        until(lambda: read_plan(store, plan).status is Status.DONE)
        until(lambda: queue.devices()[0].deaths == 0)
        assert (queue.devices()[0].set_aside_until, queue.devices()[0].problem) == (None, None)


def test_devices_are_those_of_the_dispatcher_that_is_there(dispatching: Store, database: Path | str) -> None:
    other = Store.at(database)
    dispatching.leave_dispatch()
    taken = other.take_dispatch(locked=False)
    assert taken is not None
    Queue(taken).begin(["cuda:0"])
    assert [each.name for each in Queue(other).devices()] == ["cuda:0"]
    other.close()
