"""The queue of evaluations: what runs where, and what waits in which order."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from pebble import ProcessExpired

from common import UnknownNameError
from evaluation import Catalog
from service.jobs.evaluations import Limits, Priority, ShardStatus, Status
from service.jobs.queue import Queue, SharedEvaluationError, Waiting, WrongStatusError
from service.jobs.store import MAX_FAILURES, Store
from tests.server import a_plan, until
from tests.service.jobs.dispatching import Start, Threads, plan_of
from tests.service.jobs.dispatching import read as read_plan
from tests.service.jobs.stores import claim, complete, drain, read


@pytest.fixture
def dispatching(store: Store) -> Store:
    """The store of a dispatcher with two devices."""
    taken = store.take_dispatch(locked=False)
    assert taken is not None
    Queue(taken).change_devices(joined=["cpu:0", "cpu:1"], gone=[])
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
    assert queue.waiting() == [Waiting(a_plan().id, 3, passes, paused=False, priority=Priority.NORMAL)]
    store.claim()
    assert queue.waiting() == [Waiting(a_plan().id, 2, passes * 150 // 250, paused=False, priority=Priority.NORMAL)]


def test_devices_are_of_use_as_far_as_shards_may_run(store: Store, queue: Queue) -> None:
    assert queue.useful_devices() == 0
    store.submit(a_plan(0))
    store.submit(a_plan(1), limits=Limits(max_devices=1))
    assert queue.useful_devices() == 3 + 1
    claimed = [store.claim(), store.claim()]
    assert {int(each.evaluation_id, 16) for each in claimed if each} == {0, 1}
    assert queue.useful_devices() == 3 + 1
    queue.pause_evaluation(a_plan(0).id)
    assert queue.useful_devices() == 1 + 1
    queue.pause()
    assert queue.useful_devices() == 2, "what runs goes on"


def test_a_device_shows_the_shard_that_it_runs_as_long_as_it_does(dispatching: Store, queue: Queue) -> None:
    dispatching.submit(a_plan())
    claimed = dispatching.claim("cpu:1")
    assert claimed is not None
    dispatching.advance({claimed.id: 0.3})
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
    Queue(taken).forget_devices()
    Queue(taken).change_devices(joined=["cuda:0"], gone=[])
    assert [each.name for each in Queue(other).devices()] == ["cuda:0"]
    other.close()


def test_a_paused_queue_hands_nothing_out_but_finishes_what_runs_and_stays_paused(
    store: Store, queue: Queue, database: Path | str
) -> None:
    store.submit(a_plan())
    running = claim(store)
    queue.pause()
    queue.pause()
    other = Store.at(database)
    assert Queue(other).paused
    assert (other.claim(), read(other).status) == (None, Status.PAUSED)
    assert complete(store, running)
    assert read(store).progress.shards == {ShardStatus.DONE: 1, ShardStatus.PENDING: 2}
    Queue(other).resume()
    other.close()
    assert (queue.paused, read(store).status, len(drain(store))) == (False, Status.RUNNING, 2)


def test_a_paused_evaluation_lets_the_others_go_on(store: Store, queue: Queue, database: Path | str) -> None:
    for number in range(2):
        store.submit(a_plan(number))
    queue.pause_evaluation(a_plan(0).id)
    assert [(each.evaluation_id, each.paused) for each in queue.waiting()] == [
        (a_plan(1).id, False),
        (a_plan(0).id, True),
    ]
    assert {each.evaluation_id for each in drain(store)} == {a_plan(1).id}
    store.close()
    again = Store.at(database)
    assert read(again, 0).status is Status.PAUSED
    assert [each.status for each in again.evaluations()] == [Status.DONE, Status.PAUSED]
    Queue(again).resume_evaluation(a_plan(0).id)
    assert len(drain(again)) == 3
    again.close()


def test_what_is_cancelled_while_it_is_paused_goes_on_when_it_is_submitted_again(store: Store, queue: Queue) -> None:
    store.submit(a_plan())
    queue.pause_evaluation(a_plan().id)
    store.submit(a_plan())
    assert read(store).status is Status.PAUSED
    store.cancel(a_plan().id)
    assert read(store).status is Status.CANCELLED
    store.submit(a_plan())
    assert (read(store).status, len(drain(store))) == (Status.PENDING, 3)


def test_a_higher_priority_goes_first_and_equal_ones_share(store: Store, queue: Queue) -> None:
    for number, priority in enumerate([Priority.LOW, None, None, Priority.HIGH]):
        store.submit(a_plan(number, images=200), priority=priority)
    assert order(queue) == [3, 1, 2, 0]
    handed_out = [int(claim(store).evaluation_id, 16) for _ in range(8)]
    assert handed_out == [3, 3, 1, 2, 1, 2, 0, 0]


def test_a_priority_is_changed_and_by_a_further_submission_only_raised(store: Store, queue: Queue) -> None:
    store.submit(a_plan())
    queue.prioritise(a_plan().id, Priority.LOW)
    assert read(store).priority is Priority.LOW
    store.submit(a_plan(), owner="another", priority=Priority.HIGH)
    assert read(store).priority is Priority.HIGH
    store.submit(a_plan(), owner="a third one", priority=Priority.LOW)
    store.submit(a_plan())
    assert read(store).priority is Priority.HIGH


def fail(store: Store) -> None:
    for _ in range(MAX_FAILURES):
        store.fail(claim(store).id, "out of memory")


def test_a_failed_evaluation_is_tried_again_and_keeps_what_is_finished(store: Store, queue: Queue) -> None:
    store.submit(a_plan())
    complete(store, claim(store))
    fail(store)
    assert read(store).progress.shards == {ShardStatus.DONE: 1, ShardStatus.FAILED: 1, ShardStatus.DROPPED: 1}
    queue.retry(a_plan().id, trace="context")
    assert (read(store).status, read(store).progress.error) == (Status.RUNNING, None)
    for _ in range(MAX_FAILURES - 1):
        store.fail(claim(store).id, "out of memory")
    assert len(drain(store)) == 2, "its tries were fresh"
    assert read(store).status is Status.DONE
    assert [each.trace for each in store.take_ended_traces()] == ["context"]


def test_what_has_ended_is_neither_paused_nor_tried_again_and_what_is_not_there_is_said(
    store: Store, queue: Queue
) -> None:
    with pytest.raises(UnknownNameError, match="there is no evaluation '0000000000000000'"):
        queue.pause_evaluation(a_plan().id)
    store.submit(a_plan())
    with pytest.raises(WrongStatusError, match="is pending and cannot be retried; one that is failed can"):
        queue.retry(a_plan().id)
    drain(store)
    for change in (
        queue.pause_evaluation,
        queue.resume_evaluation,
        lambda each: queue.prioritise(each, Priority.LOW),
    ):
        with pytest.raises(
            WrongStatusError, match=r"is done and cannot be .*; one that is pending or running or paused can"
        ):
            change(a_plan().id)
    assert (read(store).status, read(store).priority) == (Status.DONE, Priority.NORMAL)


def test_nobody_holds_up_what_others_asked_for_too(store: Store, queue: Queue) -> None:
    for owner in ("one", "two"):
        store.submit(a_plan(), owner=owner)
    for hold_up in (
        lambda: queue.pause_evaluation(a_plan().id, "one"),
        lambda: queue.prioritise(a_plan().id, Priority.LOW, "one"),
    ):
        with pytest.raises(SharedEvaluationError, match=r"others asked for evaluation .* too; only an admin key can"):
            hold_up()
    assert (read(store).status, read(store).priority) == (Status.PENDING, Priority.NORMAL)
    queue.pause_evaluation(a_plan().id)
    assert read(store).status is Status.PAUSED
