"""The durable state: what is written, what is refused, what a restart finds."""

import pytest

from service.jobs.evaluations import ShardStatus, Status
from service.jobs.queries import KeyReusedError
from service.jobs.queue import Queue
from service.jobs.store import MAX_FAILURES, Store
from tests.server import a_plan, a_result
from tests.service.jobs.stores import claim, complete, drain, read


def test_a_submitted_evaluation_is_read_back_as_it_was(store: Store) -> None:
    plan = a_plan()
    assert store.submit(plan)
    found = read(store)
    assert (found.id, found.plan, found.sequence) == (plan.id, plan, 1)
    assert found.created_at.tzinfo is not None
    assert found.progress.shards == {ShardStatus.PENDING: 3}
    assert found.progress.images == {ShardStatus.PENDING: 250}
    assert store.results(plan.id) == []


def test_an_unknown_evaluation_is_none(store: Store) -> None:
    assert store.evaluation("f" * 16) is None
    assert store.claim() is None


def test_submitting_again_changes_nothing_while_it_runs_or_when_it_is_done(store: Store) -> None:
    store.submit(a_plan())
    first = claim(store)
    assert not store.submit(a_plan())
    complete(store, first)
    drain(store)
    assert not store.submit(a_plan())
    assert read(store).status is Status.DONE
    assert read(store).progress.runs == 3
    assert len(store.evaluations(limit=10)) == 1


def test_submitting_a_cancelled_evaluation_goes_on_where_it_stopped(store: Store) -> None:
    store.submit(a_plan())
    complete(store, claim(store))
    store.cancel(a_plan().id)
    assert store.submit(a_plan())
    assert read(store).status is Status.RUNNING
    assert [each.shard.start for each in drain(store)] == [100, 200]
    assert read(store).status is Status.DONE
    assert read(store).progress.runs == 3


def test_submitting_a_failed_evaluation_tries_again_with_all_its_tries(store: Store) -> None:
    store.submit(a_plan())
    for _ in range(MAX_FAILURES):
        store.fail(claim(store).id, "out of memory")
    assert store.submit(a_plan())
    assert read(store).status is Status.PENDING
    assert read(store).progress.error is None
    for _ in range(MAX_FAILURES - 1):
        store.fail(claim(store).id, "out of memory")
    assert read(store).status is not Status.FAILED
    assert len(drain(store)) == 3
    assert read(store).status is Status.DONE


def test_a_key_with_the_same_body_is_harmless(store: Store) -> None:
    assert store.submit(a_plan(), key="k", body_sha256="one")
    assert not store.submit(a_plan(), key="k", body_sha256="one")
    assert store.submit(a_plan(1), key="other", body_sha256="two")


def test_a_key_with_another_body_is_refused_and_nothing_is_written(store: Store) -> None:
    store.submit(a_plan(), key="k", body_sha256="one")
    with pytest.raises(KeyReusedError, match="'k' was used before with another request"):
        store.submit(a_plan(1), key="k", body_sha256="two")
    assert store.evaluation(a_plan(1).id) is None
    assert [each.id for each in store.evaluations(limit=10)] == [a_plan().id]
    assert len(drain(store)) == 3


def test_a_refused_key_does_not_revive_a_cancelled_evaluation(store: Store) -> None:
    store.submit(a_plan(), key="k", body_sha256="one")
    store.submit(a_plan(1))
    store.cancel(a_plan(1).id)
    with pytest.raises(KeyReusedError):
        store.submit(a_plan(1), key="k", body_sha256="two")
    assert read(store, 1).status is Status.CANCELLED


def test_shards_are_claimed_in_the_order_of_the_plan(store: Store) -> None:
    store.submit(a_plan())
    claims = drain(store)
    assert [each.shard for each in claims] == a_plan().shards
    assert all(each.plan == a_plan() and each.evaluation_id == a_plan().id for each in claims)


def test_claims_go_to_the_evaluation_with_the_fewest_running_then_to_the_oldest(store: Store) -> None:
    for number in range(3):
        store.submit(a_plan(number))
    claims = [claim(store) for _ in range(6)]
    assert [int(each.evaluation_id, 16) for each in claims] == [0, 1, 2, 0, 1, 2]
    complete(store, claims[1])
    assert int(claim(store).evaluation_id, 16) == 1, "it has one running, the others two"
    assert int(claim(store).evaluation_id, 16) == 0, "now all have two"


def test_a_small_evaluation_does_not_wait_for_a_large_one(store: Store) -> None:
    store.submit(a_plan(0, images=10_000))
    claims = [claim(store) for _ in range(2)]
    store.submit(a_plan(1, images=10))
    complete(store, claims[0])
    assert int(claim(store).evaluation_id, 16) == 1


def test_of_two_results_the_first_is_kept(store: Store) -> None:
    store.submit(a_plan())
    first = claim(store)
    assert store.complete(first, a_result(first.shard, prediction=0))
    assert not store.complete(first, a_result(first.shard, prediction=1))
    assert store.results(a_plan().id) == [a_result(first.shard, prediction=0)]


def test_a_result_that_comes_after_the_cancellation_is_not_kept(store: Store) -> None:
    store.submit(a_plan())
    first = claim(store)
    assert not store.unwanted([first.id])
    store.cancel(a_plan().id)
    assert store.unwanted([first.id])
    assert not complete(store, first)
    assert store.results(a_plan().id) == []
    assert read(store).status is Status.CANCELLED


def test_cancelling_keeps_what_is_finished_and_does_nothing_to_a_finished_evaluation(store: Store) -> None:
    store.submit(a_plan(0))
    store.submit(a_plan(1))
    done = claim(store)
    complete(store, done)
    store.cancel(a_plan(0).id)
    assert store.results(a_plan(0).id) == [a_result(done.shard)]
    drain(store)
    store.cancel(a_plan(1).id)
    assert read(store, 1).status is Status.DONE
    assert read(store, 0).progress.shards == {ShardStatus.DONE: 1, ShardStatus.DROPPED: 2}


def test_an_evaluation_is_removed_with_its_results_and_its_key_and_no_other(store: Store) -> None:
    store.submit(a_plan(0), key="k", body_sha256="one")
    store.submit(a_plan(1))
    drain(store)
    removed = store.remove(a_plan(0).id)
    assert removed is not None
    assert removed.status is Status.DONE
    assert store.evaluation(a_plan(0).id) is None
    assert store.results(a_plan(0).id) == []
    assert store.remove(a_plan(0).id) is None
    assert Queue(store).shard_counts()[ShardStatus.DONE] == 3
    assert read(store, 1).status is Status.DONE
    assert store.submit(a_plan(0), key="k", body_sha256="two"), "nothing of it is left"
    assert read(store).status is Status.PENDING


def test_what_has_yet_to_end_is_not_removed(store: Store) -> None:
    store.submit(a_plan(0), key="k", body_sha256="one")
    store.submit(a_plan(1))
    claim(store)
    for number, status in enumerate((Status.RUNNING, Status.PENDING)):
        found = store.remove(a_plan(number).id)
        assert found is not None
        assert found.status is status
        assert read(store, number) == found
    assert len(drain(store)) == 5


def test_a_shard_that_runs_while_its_evaluation_is_removed_is_nobody_elses(store: Store) -> None:
    """Its process still computes; the same question is asked again, and another."""
    store.submit(a_plan(0))
    removed = claim(store)
    store.cancel(a_plan(0).id)
    store.remove(a_plan(0).id)
    assert store.unwanted([removed.id])
    store.submit(a_plan(1))
    store.submit(a_plan(0))
    new = [claim(store) for _ in range(6)]
    assert removed.id not in {each.id for each in new}
    assert store.unwanted([removed.id])
    assert not complete(store, removed)
    store.fail(removed.id, "killed")
    store.skip(removed)
    assert store.results(a_plan(0).id) == store.results(a_plan(1).id) == []
    assert read(store, 0).progress.error is None
    assert all(complete(store, each) for each in new)


def test_results_come_back_exactly(store: Store) -> None:
    store.submit(a_plan())
    claims = drain(store)
    assert sorted(store.results(a_plan().id), key=lambda result: result.shard.start) == [
        a_result(each.shard) for each in claims
    ]


def test_pages_of_evaluations_cover_all_of_them_the_newest_first(store: Store) -> None:
    for number in range(5):
        store.submit(a_plan(number))
    pages, before = [], None
    while page := store.evaluations(limit=2, before=before):
        store.submit(a_plan(99))  # one that comes in between is on no later page
        pages.append([int(each.id, 16) for each in page])
        before = page[-1].sequence
    assert pages == [[4, 3], [2, 1], [0]]
