"""What one evaluation may take: devices at the same time, and hours of them."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import evaluation.plan
from evaluation import Catalog
from service.jobs.evaluations import Limits, ShardStatus, Status
from service.jobs.limits import HOUR_S
from service.jobs.queue import Queue, SharedEvaluationError, WrongStatusError
from service.jobs.store import Store
from tests.server import a_plan, until
from tests.service.jobs.dispatching import Start, Threads, plan_of
from tests.service.jobs.dispatching import read as read_plan
from tests.service.jobs.stores import claim, complete, drain, read


def test_no_more_devices_run_an_evaluation_than_may_and_others_get_the_rest(store: Store) -> None:
    store.submit(a_plan(0, images=500), limits=Limits(max_devices=2))
    store.submit(a_plan(1, images=500))
    claims = [claim(store) for _ in range(6)]
    assert [int(each.evaluation_id, 16) for each in claims] == [0, 1, 0, 1, 1, 1]
    complete(store, claims[0])
    assert int(claim(store).evaluation_id, 16) == 0
    assert int(claim(store).evaluation_id, 16) == 1
    assert store.claim() is None, "the first has two, the second has no more"


def test_the_limit_of_devices_is_changed_while_it_runs(store: Store, queue: Queue) -> None:
    store.submit(a_plan(images=500), limits=Limits(max_devices=1))
    claim(store)
    assert store.claim() is None
    queue.limit(a_plan().id, Limits(max_devices=2))
    claim(store)
    assert store.claim() is None
    queue.limit(a_plan().id, Limits())
    assert len(drain(store)) == 3
    assert read(store).limits == Limits()


def test_an_evaluation_that_has_taken_its_hours_fails_and_keeps_what_is_finished(store: Store, queue: Queue) -> None:
    store.submit(a_plan(images=500), limits=Limits(max_hours=2))
    first, second = claim(store), claim(store)
    complete(store, first)
    queue.spend({a_plan().id: 1.5 * HOUR_S})
    assert read(store).status is Status.RUNNING
    queue.spend({a_plan().id: 0.5 * HOUR_S})
    ended = read(store)
    assert (ended.status, ended.device_s) == (Status.FAILED, 2 * HOUR_S)
    assert ended.progress.shards == {
        ShardStatus.DONE: 1,
        ShardStatus.RUNNING: 1,
        ShardStatus.FAILED: 1,
        ShardStatus.DROPPED: 2,
    }
    reason = "devices have worked on it for 2 hours, and max_hours allows 2; raise max_hours, then retry it"
    assert ended.progress.error == reason
    assert complete(store, second), "what runs is finished"
    with pytest.raises(WrongStatusError, match=f"cannot be retried: {reason}"):
        queue.retry(a_plan().id)
    queue.limit(a_plan().id, Limits(max_hours=3))
    queue.retry(a_plan().id)
    assert (read(store).status, read(store).progress.error) == (Status.RUNNING, None)
    assert len(drain(store)) == 3
    assert read(store).status is Status.DONE


def test_a_limit_below_what_was_taken_ends_an_evaluation_at_once(store: Store, queue: Queue) -> None:
    store.submit(a_plan())
    queue.spend({a_plan().id: HOUR_S})
    queue.limit(a_plan().id, Limits(max_hours=0.5))
    assert read(store).status is Status.FAILED
    assert store.claim() is None


def test_a_further_submission_raises_limits_and_does_not_lower_them(store: Store, queue: Queue) -> None:
    store.submit(a_plan(0), limits=Limits(max_devices=2, max_hours=2))
    store.submit(a_plan(0), owner="another", limits=Limits(max_devices=1, max_hours=3))
    assert read(store, 0).limits == Limits(2, 3)
    store.submit(a_plan(0), owner="another")
    assert read(store, 0).limits == Limits(2, 3)
    store.submit(a_plan(1))
    store.submit(a_plan(1), owner="another", limits=Limits(max_devices=1))
    assert read(store, 1).limits == Limits(), "none is the highest"
    queue.spend({a_plan(0).id: 3 * HOUR_S})
    assert read(store, 0).status is Status.FAILED
    store.submit(a_plan(0))
    assert read(store, 0).status is Status.FAILED, "it has taken all it may"
    store.submit(a_plan(0), limits=Limits(max_hours=4))
    assert read(store, 0).status is Status.PENDING


def test_limits_are_for_those_who_asked_alone_and_for_what_has_not_ended(store: Store, queue: Queue) -> None:
    for owner in ("one", "two"):
        store.submit(a_plan(), owner=owner)
    with pytest.raises(SharedEvaluationError, match="change its priority, limits or label"):
        queue.limit(a_plan().id, Limits(max_devices=1), "one")
    drain(store)
    with pytest.raises(
        WrongStatusError,
        match="is done and cannot be limited; one that is pending or running or paused or failed can",
    ):
        queue.limit(a_plan().id, Limits(max_devices=1))


class Counting(Threads):
    """Knows how many calls run on all of them at the same time, and how many ever did."""

    def __init__(self, running: list[int]) -> None:
        super().__init__()
        self._running = running

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(*args, **kwargs)
        self._running.append(1)
        future.add_done_callback(lambda _: self._running.append(-1))
        return future


def most(running: list[int]) -> int:
    return max(sum(running[: length + 1]) for length in range(len(running)))


def test_the_dispatcher_keeps_to_both_limits(
    store: Store, queue: Queue, catalog: Catalog, start: Start, monkeypatch: pytest.MonkeyPatch, database: Path | str
) -> None:
    monkeypatch.setattr(evaluation.plan, "SHARD_IMAGES", 3)
    narrow, brief = (plan_of(catalog, seed=seed) for seed in (1, 2))
    store.submit(narrow, limits=Limits(max_devices=1))
    running: list[int] = []
    with Counting(running) as one, Counting(running) as two:
        start({"cpu:0": one, "cpu:1": two})
        until(lambda: read_plan(store, narrow).status is Status.DONE)
        assert most(running) == 1
        assert 0 < read_plan(store, narrow).device_s < HOUR_S
        store.submit(brief, limits=Limits(max_hours=1e-9))
        until(lambda: read_plan(store, brief).status is Status.FAILED)
        until(lambda: not read_plan(store, brief).progress.shards.get(ShardStatus.RUNNING))
        until(lambda: len(running) % 2 == 0)
    limited = read_plan(store, brief)
    assert 1 <= limited.progress.shards[ShardStatus.DONE] <= 3
    assert "max_hours allows 1e-09" in str(limited.progress.error)
    assert len(store.results(brief.id)) == limited.progress.shards[ShardStatus.DONE]
