"""The dispatcher with executors that are threads: from pending shards to a report."""

import itertools
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import evaluation
import evaluation.compute.runner
import evaluation.plan
import service.jobs.dispatcher
from evaluation import Catalog, Plan, merge
from evaluation.compute.progress import OnProgress
from evaluation.results.protocol import Work
from service.jobs.dispatcher import PROGRESS_S
from service.jobs.evaluations import ShardStatus, Status
from service.jobs.executors import compute
from service.jobs.queue import Queue
from service.jobs.store import MAX_FAILURES, Store
from tests.conftest import Put, without_times
from tests.server import DEADLINE_S, until
from tests.service.jobs.dispatching import Start, Threads, plan_of, read
from tests.service.jobs.stores import change, on_sqlite

FLIP = {"kind": "transform", "name": "flip", "parameters": {"direction": "left_right"}}
PGD = {
    "kind": "adversarial",
    "threat": {"norm": "Linf", "eps": "8/255"},
    "attacks": [{"name": "pgd", "parameters": {"steps": 2}}],
}


def test_every_shard_is_run_and_the_report_is_that_of_an_evaluation_without_a_service(
    store: Store, catalog: Catalog, start: Start
) -> None:
    plan = plan_of(catalog, models=["tiny", "twin"], conditions=[{"kind": "clean"}, FLIP, PGD])
    store.submit(plan)
    with Threads() as one, Threads() as other:
        start({"one": one, "other": other})
        until(lambda: read(store, plan).status.final)
    done = read(store, plan)
    assert (done.status, done.progress.runs, done.progress.images) == (Status.DONE, 6, {ShardStatus.DONE: 6 * 33})
    assert one.futures, "both executors had work"
    assert other.futures, "both executors had work"
    report = merge(plan, store.results(plan.id))
    assert report.complete
    assert without_times(report) == without_times(evaluation.evaluate(plan.spec, catalog=catalog, device="cpu"))


@on_sqlite
def test_a_larger_selection_is_reported_as_if_nothing_had_been_computed_before(
    store: Store, catalog: Catalog, threads: Threads, start: Start
) -> None:
    conditions = [{"kind": "clean"}, FLIP, PGD]
    small, large = (plan_of(catalog, images=images, conditions=conditions) for images in (20, 30))
    store.submit(small)
    while claimed := store.claim():
        found = compute(catalog, Work(claimed.plan, claimed.shard))
        marked = tuple(row.model_copy(update={"confidence": 0.123}) for row in found.rows)
        store.complete(claimed, found.model_copy(update={"rows": marked}))
    store.submit(large)
    start({"cpu": threads})
    until(lambda: read(store, large).status is Status.DONE)
    results = store.results(large.id)
    for result in results:
        assert [row.index for row in result.rows if row.confidence == 0.123] == [row.index for row in result.rows[:20]]
    alone = evaluation.evaluate(large.spec, catalog=catalog, device="cpu")
    assert without_times(merge(large, results)) == without_times(alone)


@on_sqlite
def test_more_restarts_and_attacks_are_reported_as_if_nothing_had_been_computed_before(
    store: Store, catalog: Catalog, threads: Threads, start: Start
) -> None:
    def plan(*chosen: dict[str, Any]) -> Plan:
        return plan_of(catalog, conditions=[{"kind": "clean"}, PGD | {"attacks": [*chosen]}])

    weak = {"name": "pgd", "parameters": {"steps": 1}}
    first, second = plan(weak), plan(weak | {"restarts": 3}, {"name": "fgsm"})
    start({"cpu": threads})
    store.submit(first)
    until(lambda: read(store, first).status is Status.DONE)
    store.submit(second)
    until(lambda: read(store, second).status is Status.DONE)
    assert [known and known.rounds for known in threads.known] == [None, None, 1]
    alone = evaluation.evaluate(second.spec, catalog=catalog, device="cpu")
    assert without_times(merge(second, store.results(second.id))) == without_times(alone)


def test_what_was_computed_before_can_make_a_condition_certain_enough(
    store: Store, catalog: Catalog, threads: Threads, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation.plan, "SHARD_IMAGES", 10)
    first, wide = (plan_of(catalog, **asked) for asked in ({"images": 20}, {"images": 33, "stop_width": 0.2}))
    start({"cpu": threads})
    store.submit(first)
    until(lambda: read(store, first).status is Status.DONE)
    store.submit(wide)
    until(lambda: read(store, wide).status is Status.DONE)
    assert len(threads.futures) == 2, "nothing more was run"
    assert read(store, wide).progress.shards == {ShardStatus.DONE: 2, ShardStatus.SKIPPED: 2}
    report = merge(wide, store.results(wide.id))
    assert report.complete
    assert report.models[0].conditions[0].images_done == 20


def test_what_is_submitted_later_is_run_too(store: Store, catalog: Catalog, threads: Threads, start: Start) -> None:
    dispatcher = start({"cpu": threads})
    until(dispatcher.active.is_set)
    for seed in range(2):
        plan = plan_of(catalog, images=3, seed=seed)
        store.submit(plan)
        dispatcher.wake()
        until(lambda plan=plan: read(store, plan).status is Status.DONE)


def test_a_second_dispatcher_waits_until_the_first_has_stopped(store: Store, catalog: Catalog, start: Start) -> None:
    with Threads() as threads, Threads() as spare:
        first = start({"cpu": threads})
        until(first.active.is_set)
        standby = start({"cpu": spare})
        plan = plan_of(catalog, images=3)
        store.submit(plan)
        until(lambda: read(store, plan).status is Status.DONE)
        assert not standby.active.is_set()
        assert not spare.futures
        first.stop()
        until(standby.active.is_set)
        assert not first.active.is_set()
        later = plan_of(catalog, images=4)
        store.submit(later)
        until(lambda: read(store, later).status is Status.DONE)
        assert (len(threads.futures), len(spare.futures)) == (1, 1)


def test_what_was_running_when_the_former_dispatcher_ended_is_run_again(
    store: Store, catalog: Catalog, threads: Threads, start: Start
) -> None:
    plan = plan_of(catalog, images=3)
    store.submit(plan)
    store.claim()
    start({"cpu": threads})
    until(lambda: read(store, plan).status is Status.DONE)
    assert read(store, plan).progress.runs == 2


def test_a_shard_that_cannot_be_run_is_tried_again_then_fails_its_evaluation_alone(
    store: Store, catalog: Catalog, put_checkpoint: Put, threads: Threads, start: Start, tmp_path: Path
) -> None:
    path = put_checkpoint(tmp_path, "doomed")
    where = Catalog((*catalog.model_folders, tmp_path), catalog.dataset_folders)
    doomed = plan_of(where, models=["doomed"], images=3, conditions=[{"kind": "clean"}, FLIP])
    sound = plan_of(where, images=3)
    store.submit(doomed)
    store.submit(sound)
    path.unlink()
    start({"cpu": threads}, where)
    until(lambda: read(store, doomed).status.final and read(store, sound).status.final)
    failed = read(store, doomed)
    assert (failed.status, failed.progress.runs) == (Status.FAILED, MAX_FAILURES)
    assert failed.progress.error is not None
    assert failed.progress.error.startswith("UnknownNameError: unknown model 'doomed'")
    assert read(store, sound).status is Status.DONE


def test_an_executor_that_can_start_nothing_fails_the_evaluation_and_not_the_dispatcher(
    store: Store, catalog: Catalog, threads: Threads, start: Start
) -> None:
    ended = ThreadPoolExecutor(1)
    ended.shutdown()
    plan = plan_of(catalog, images=3)
    store.submit(plan)
    dispatcher = start({"cpu": ended})
    until(lambda: read(store, plan).status is Status.FAILED)
    assert "cannot schedule new futures after shutdown" in (read(store, plan).progress.error or "")
    assert dispatcher.active.is_set()


def test_cancelling_takes_the_shard_back_from_its_executor(store: Store, catalog: Catalog, start: Start) -> None:
    """The executor's thread is busy with something else, so the shard waits in it and can still be cancelled."""
    release = Event()
    plan, next_plan = plan_of(catalog, images=3), plan_of(catalog, images=4)
    with Threads() as threads:
        threads.submit(release.wait, DEADLINE_S)
        dispatcher = start({"cpu": threads})
        store.submit(plan)
        until(lambda: len(threads.futures) == 2)
        store.cancel(plan.id)
        store.submit(next_plan)
        dispatcher.wake()
        until(threads.futures[1].cancelled)
        release.set()
        until(lambda: read(store, next_plan).status is Status.DONE)
    assert read(store, plan).status is Status.CANCELLED
    assert store.results(plan.id) == []


def test_an_evaluation_is_removed_while_its_shard_is_still_being_run(
    store: Store, catalog: Catalog, start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread cannot be stopped, as little as a device process at once; meanwhile the same question is asked again."""
    release = Event()
    plan = plan_of(catalog, images=3)

    class Slow(Threads):
        def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
            call = args if self.futures else (_after, release, *args)
            return super().submit(*call, **kwargs)

    with Slow() as threads:
        start({"cpu": threads})
        store.submit(plan)
        until(lambda: threads.futures and threads.futures[0].running())
        looked, unwanted = Event(), Store.unwanted

        def look(self: Store, running: Collection[int]) -> set[int]:
            if found := unwanted(self, running):
                looked.set()
            return found

        monkeypatch.setattr(Store, "unwanted", look)
        store.cancel(plan.id)
        removed = store.remove(plan.id)
        assert removed is not None
        assert removed.status is Status.CANCELLED
        store.submit(plan)
        until(looked.is_set)
        release.set()
        until(lambda: read(store, plan).status is Status.DONE)
    assert len(threads.futures) == 2
    assert read(store, plan).progress.runs == 1
    assert "the dispatcher will try again" not in caplog.text


def _after(release: Event, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    release.wait(DEADLINE_S)
    return call(*args, **kwargs)


def test_stopping_leaves_running_shards_to_the_next_dispatcher(store: Store, catalog: Catalog, start: Start) -> None:
    release = Event()
    plan = plan_of(catalog, images=3)
    store.submit(plan)
    with Threads() as threads:
        threads.submit(release.wait, DEADLINE_S)
        first = start({"cpu": threads})
        until(lambda: len(threads.futures) == 2)
        first.stop()
        assert threads.futures[1].cancelled()
        assert read(store, plan).progress.shards == {ShardStatus.RUNNING: 1}
        release.set()
        start({"cpu": threads})
        until(lambda: read(store, plan).status is Status.DONE)
    assert read(store, plan).progress.runs == 2


def test_a_dispatcher_that_hangs_does_not_hold_up_the_end_of_its_server(
    store: Store, catalog: Catalog, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.jobs.dispatcher, "LONGEST_STOP_S", 0.3)
    hangs, release = Event(), Event()

    class Hanging(Threads):
        def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
            hangs.set()
            release.wait(DEADLINE_S)
            return super().submit(*args, **kwargs)

    store.submit(plan_of(catalog, images=3))
    with Hanging() as threads:
        first = start({"cpu": threads})
        assert hangs.wait(DEADLINE_S)
        began = time.monotonic()
        first.stop()
        assert time.monotonic() - began < 5
        release.set()
        until(lambda: not first.active.is_set())


@pytest.mark.parametrize("while_running", [False, True])
def test_a_database_that_cannot_be_used_for_a_while_does_not_end_the_dispatcher(
    store: Store,
    catalog: Catalog,
    threads: Threads,
    start: Start,
    database: Path | str,
    caplog: pytest.LogCaptureFixture,
    while_running: bool,
) -> None:
    plan = plan_of(catalog, images=3)
    store.submit(plan)
    store.claim()  # by a dispatcher that is gone: it must be recovered, however late
    release = Event()
    threads.submit(release.wait, DEADLINE_S)
    if while_running:
        start({"cpu": threads})
        until(lambda: len(threads.futures) == 2)
    change(database, "ALTER TABLE shards RENAME TO stolen")
    if not while_running:
        start({"cpu": threads})
    release.set()
    until(lambda: "the dispatcher will try again" in caplog.text)
    change(database, "ALTER TABLE stolen RENAME TO shards")
    until(lambda: read(store, plan).status is Status.DONE)
    assert len(store.results(plan.id)) == 1


class Halting(Threads):
    """A thread that stops after the first batch of a shard until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = Event()

    def submit(self, *args: Any, on_progress: OnProgress, **kwargs: Any) -> Future[Any]:
        def halt(done: float, total: int) -> None:
            on_progress(done, total)
            if done:
                self.go_on.wait(DEADLINE_S)

        return super().submit(*args, on_progress=halt, **kwargs)


@on_sqlite
def test_the_images_of_a_running_shard_that_are_done_count(
    store: Store, catalog: Catalog, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation.compute.runner, "BATCH_PIXELS", 11 * 32 * 32)
    plan = plan_of(catalog, conditions=[PGD])
    store.submit(plan)
    with Halting() as halting:
        start({"cpu": halting})
        until(lambda: read(store, plan).progress.images_done)
        halfway = read(store, plan)
        assert (halfway.status, halfway.progress.images_done) == (Status.RUNNING, 11)
        halting.go_on.set()
        until(lambda: read(store, plan).status is Status.DONE)
    assert read(store, plan).progress.images_done == 33


@on_sqlite
def test_progress_is_written_at_most_once_a_second(
    store: Store, catalog: Catalog, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation.compute.runner, "BATCH_PIXELS", 32 * 32)
    monkeypatch.setattr("service.jobs.dispatcher.POLL_S", 0.01)
    written: list[float] = []
    advance = Store.advance
    monkeypatch.setattr(Store, "advance", lambda self, done: (written.append(time.monotonic()), advance(self, done)))
    steps = PGD | {"attacks": [{"name": "pgd", "parameters": {"steps": 100}}]}
    plan = plan_of(catalog, conditions=[steps])
    store.submit(plan)
    with Threads() as one:
        start({"cpu": one})
        until(lambda: len(written) > 2 or read(store, plan).status.final)
        store.cancel(plan.id)
    assert len(written) > 1
    assert min(later - earlier for earlier, later in itertools.pairwise(written)) >= PROGRESS_S


@on_sqlite
def test_a_device_that_joins_gets_work_and_one_that_left_is_forgotten_when_its_shard_has_ended(
    store: Store, catalog: Catalog, start: Start
) -> None:
    def names() -> list[str]:
        return [device.name for device in Queue(store).devices()]

    release = Event()
    plan = plan_of(catalog, conditions=[{"kind": "clean"}, FLIP])
    store.submit(plan)
    with Threads() as one, Threads() as other:
        there = {"one": one}
        one.submit(release.wait, DEADLINE_S)
        start(there)
        until(lambda: len(one.futures) == 2)
        assert names() == ["one"]
        there["other"] = other
        until(lambda: names() == ["one", "other"])
        until(lambda: read(store, plan).progress.shards.get(ShardStatus.DONE) == 1)
        assert len(other.futures) == 1
        del there["one"]
        store.submit(later := plan_of(catalog, images=3))
        until(lambda: read(store, later).status is Status.DONE)
        assert names() == ["one", "other"]
        release.set()
        until(lambda: names() == ["other"])
        assert read(store, plan).status is Status.DONE
        assert (len(one.futures), len(other.futures)) == (2, 2)
