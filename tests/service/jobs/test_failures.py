"""Shards that fail, and restarts, which are no failures."""

from concurrent.futures.process import BrokenProcessPool

from service.jobs.evaluations import ShardStatus, Status
from service.jobs.failures import Fault, describe, failure_of
from service.jobs.store import MAX_FAILURES, Store
from tests.server import a_plan, a_result
from tests.service.jobs.stores import claim, complete, drain, read


def test_a_process_that_ends_before_it_has_a_shard_is_the_fault_of_its_device() -> None:
    broken = BrokenProcessPool("All workers expired")
    assert failure_of(broken, started=False).fault is Fault.DEVICE
    assert failure_of(broken, started=True).fault is Fault.OUTSIDE


def test_a_failure_that_comes_after_the_cancellation_does_not_bring_the_shard_back(store: Store) -> None:
    store.submit(a_plan())
    first = claim(store)
    store.cancel(a_plan().id)
    store.fail(first.id, "killed")
    assert store.claim() is None
    assert read(store).status is Status.CANCELLED
    assert read(store).progress.error is None


def test_a_shard_that_fails_too_often_fails_its_evaluation_and_no_other(store: Store) -> None:
    store.submit(a_plan(0))
    store.submit(a_plan(1))
    finished = claim(store)
    complete(store, finished)
    for failures in range(MAX_FAILURES):
        assert read(store).status is not Status.FAILED, f"after {failures} failures"
        store.fail(claim(store).id, f"failure {failures}")
    failed = read(store)
    assert failed.status is Status.FAILED
    assert failed.progress.error == f"failure {MAX_FAILURES - 1}"
    assert failed.progress.shards == {ShardStatus.DONE: 1, ShardStatus.FAILED: 1, ShardStatus.DROPPED: 1}
    assert store.results(a_plan(0).id) == [a_result(finished.shard)]
    assert {each.evaluation_id for each in drain(store)} == {a_plan(1).id}
    assert read(store, 1).status is Status.DONE


def test_the_error_shown_is_that_of_the_shard_that_failed_for_good(store: Store) -> None:
    store.submit(a_plan(images=200))
    unlucky = claim(store)
    for _ in range(MAX_FAILURES - 1):
        store.fail(claim(store).id, "doomed")
    doomed = claim(store)
    store.fail(unlucky.id, "a passing trouble")
    assert read(store).progress.error == "a passing trouble"
    store.fail(doomed.id, "doomed")
    assert read(store).progress.error == "doomed"


def test_a_failed_evaluation_stays_at_rest_when_a_shard_beside_fails_too(store: Store) -> None:
    store.submit(a_plan(images=200))
    for _ in range(MAX_FAILURES - 1):
        store.fail(claim(store).id, "first")
    first, second = claim(store), claim(store)
    store.fail(first.id, "first")
    store.fail(second.id, "second")
    assert read(store).status is Status.FAILED
    assert store.claim() is None


def test_restarts_are_no_failures(store: Store) -> None:
    store.submit(a_plan(images=50))
    for _ in range(2 * MAX_FAILURES):
        claim(store)
        assert store.recover() == 1
    assert store.recover() == 0
    assert read(store).status is Status.PENDING
    for _ in range(MAX_FAILURES - 1):
        store.fail(claim(store).id, "a real failure")
    assert len(drain(store)) == 1
    assert read(store).progress.runs == 3 * MAX_FAILURES
    assert read(store).status is Status.DONE
    assert read(store).progress.error is None


def test_recovering_leaves_alone_what_is_not_running(store: Store) -> None:
    store.submit(a_plan(0))
    store.submit(a_plan(1))
    complete(store, claim(store))
    store.cancel(a_plan(1).id)
    assert store.recover() == 0
    assert read(store, 0).progress.shards == {ShardStatus.DONE: 1, ShardStatus.PENDING: 2}
    assert read(store, 1).status is Status.CANCELLED


def test_an_error_about_any_file_name_can_be_stored(store: Store) -> None:
    store.submit(a_plan())
    for _ in range(MAX_FAILURES):
        store.fail(claim(store).id, describe(OSError("no file '\udcff\0'")))
    assert read(store).progress.error == "OSError: no file '??'"
