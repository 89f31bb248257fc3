"""The durable state: what is written, what is refused, what a restart finds."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from attacks import Norm, ThreatModel
from evaluation import AdversarialCondition, AttackChoice, CleanCondition, EvaluationSpec, Plan, ShardResult, preset
from service.jobs.evaluations import Claim, Evaluation, ShardStatus, Status
from service.jobs.store import MAX_FAILURES, KeyReusedError, Store, StoreError
from tests.server import a_plan, a_result


@pytest.fixture
def store(database: Path) -> Iterator[Store]:
    opened = Store.at(database)
    yield opened
    opened.close()


def read(store: Store, number: int = 0) -> Evaluation:
    found = store.evaluation(a_plan(number).id)
    assert found is not None
    return found


def claim(store: Store) -> Claim:
    claimed = store.claim()
    assert claimed is not None
    return claimed


def complete(store: Store, claimed: Claim) -> bool:
    return store.complete(claimed, a_result(claimed.shard))


def drain(store: Store) -> list[Claim]:
    done: list[Claim] = []
    while claimed := store.claim():
        assert complete(store, claimed)
        done.append(claimed)
    return done


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
    assert store.wanted(first.id)
    store.cancel(a_plan().id)
    assert not store.wanted(first.id)
    assert not complete(store, first)
    assert store.results(a_plan().id) == []
    assert read(store).status is Status.CANCELLED


def test_a_failure_that_comes_after_the_cancellation_does_not_bring_the_shard_back(store: Store) -> None:
    store.submit(a_plan())
    first = claim(store)
    store.cancel(a_plan().id)
    store.fail(first.id, "killed")
    assert store.claim() is None
    assert read(store).status is Status.CANCELLED
    assert read(store).progress.error is None


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
    assert store.shard_counts()[ShardStatus.DONE] == 3
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


def test_results_that_another_evaluation_has_too_stay(store: Store) -> None:
    store.submit(a_plan())
    drain(store)
    store.submit(another())
    store.remove(a_plan().id)
    assert len(store.results(another().id)) == 3
    assert store.submit(a_plan())
    assert read(store).progress.shards == {ShardStatus.DONE: 3}, "they are found there"


def test_a_shard_that_runs_while_its_evaluation_is_removed_is_nobody_elses(store: Store) -> None:
    """Its process still computes; the same question is asked again, and another."""
    store.submit(a_plan(0))
    removed = claim(store)
    store.cancel(a_plan(0).id)
    store.remove(a_plan(0).id)
    assert not store.wanted(removed.id)
    store.submit(a_plan(1))
    store.submit(a_plan(0))
    new = [claim(store) for _ in range(6)]
    assert removed.id not in {each.id for each in new}
    assert not store.wanted(removed.id)
    assert not complete(store, removed)
    store.fail(removed.id, "killed")
    store.skip(removed)
    assert store.results(a_plan(0).id) == store.results(a_plan(1).id) == []
    assert read(store, 0).progress.error is None
    assert all(complete(store, each) for each in new)


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


def test_results_come_back_exactly(store: Store) -> None:
    store.submit(a_plan())
    claims = drain(store)
    assert sorted(store.results(a_plan().id), key=lambda result: result.shard.start) == [
        a_result(each.shard) for each in claims
    ]


def test_progress_counts_shards_images_and_time(store: Store) -> None:
    store.submit(a_plan())
    fresh = read(store).progress
    assert (fresh.images_per_s, fresh.eta_s, fresh.busy_s, fresh.runs) == (None, None, 0, 0)
    first = claim(store)
    assert read(store).progress.images == {ShardStatus.RUNNING: 100, ShardStatus.PENDING: 150}
    complete(store, first)
    claim(store)
    halfway = read(store).progress
    assert halfway.shards == {ShardStatus.DONE: 1, ShardStatus.RUNNING: 1, ShardStatus.PENDING: 1}
    assert halfway.images == {ShardStatus.DONE: 100, ShardStatus.RUNNING: 100, ShardStatus.PENDING: 50}
    assert halfway.runs == 2
    assert halfway.busy_s > 0
    assert halfway.images_per_s == pytest.approx(100 / halfway.busy_s)
    assert halfway.eta_s == pytest.approx(150 * halfway.busy_s / 100)


def test_the_time_left_counts_an_image_once_for_every_pass(store: Store) -> None:
    attack = {"name": "pgd", "parameters": {"steps": 20}}
    ball = {"kind": "adversarial", "threat": {"norm": "Linf", "eps": "8/255"}, "attacks": [attack]}
    spec = EvaluationSpec.model_validate(
        {"models": ["tiny"], "dataset": "shapes", "conditions": [{"kind": "clean"}, ball]}
    )
    store.submit(a_plan(spec=spec, images=100))
    complete(store, claim(store))
    progress = read(store).progress
    clean, attacked = (condition.passes for condition in spec.conditions)
    assert progress.images == {ShardStatus.DONE: 100, ShardStatus.PENDING: 100}
    assert progress.passes == {ShardStatus.DONE: 100 * clean, ShardStatus.PENDING: 100 * attacked}
    assert attacked > 20 * clean
    assert progress.images_per_s == pytest.approx(100 / progress.busy_s)
    assert progress.eta_s == pytest.approx(attacked / clean * progress.busy_s)


def test_the_rate_counts_shards_that_run_side_by_side(store: Store) -> None:
    store.submit(a_plan())
    complete(store, claim(store))
    claim(store)
    claim(store)
    progress = read(store).progress
    assert progress.images_per_s == pytest.approx(2 * 100 / progress.busy_s)


def test_the_status_follows_from_the_shards(store: Store) -> None:
    seen = []
    store.submit(a_plan(images=200))
    seen.append(read(store).status)
    first = claim(store)
    seen.append(read(store).status)
    complete(store, first)
    seen.append(read(store).status)
    store.cancel(a_plan().id)
    seen.append(read(store).status)
    store.submit(a_plan())
    drain(store)
    seen.append(read(store).status)
    assert seen == [Status.PENDING, Status.RUNNING, Status.RUNNING, Status.CANCELLED, Status.DONE]
    assert [each for each in Status if each.final] == [Status.DONE, Status.FAILED, Status.CANCELLED]


def test_pages_of_evaluations_cover_all_of_them_the_newest_first(store: Store) -> None:
    for number in range(5):
        store.submit(a_plan(number))
    pages, before = [], None
    while page := store.evaluations(limit=2, before=before):
        store.submit(a_plan(99))  # one that comes in between is on no later page
        pages.append([int(each.id, 16) for each in page])
        before = page[-1].sequence
    assert pages == [[4, 3], [2, 1], [0]]


def test_a_database_is_found_again_as_it_was_left(database: Path) -> None:
    first = Store.at(database)
    first.submit(a_plan(), key="k", body_sha256="one")
    complete(first, claim(first))
    claim(first)
    before = read(first)
    first.close()
    again = Store.at(database)
    assert read(again) == before
    with pytest.raises(KeyReusedError):
        again.submit(a_plan(1), key="k", body_sha256="two")
    assert again.recover() == 1
    assert [each.shard.start for each in drain(again)] == [100, 200]
    again.close()


def test_workers_in_many_threads_do_every_shard_once(database: Path) -> None:
    """Two stores on one file, each used by three threads; a duplicate claim would be a duplicate completion."""
    stores = [Store.at(database), Store.at(database)]
    for number in range(4):
        stores[number % 2].submit(a_plan(number, images=1_000))

    with ThreadPoolExecutor(6) as threads:
        claims = [each for done in threads.map(drain, stores * 3) for each in done]

    assert max(Counter(each.id for each in claims).values()) == 1
    assert len(claims) == 40
    for number in range(4):
        found = read(stores[0], number)
        assert (found.status, found.progress.runs) == (Status.DONE, 10)
        assert len(stores[1].results(found.id)) == 10
    for store in stores:
        store.close()


def test_submissions_in_many_threads_are_all_kept_in_an_order(database: Path) -> None:
    stores = [Store.at(database), Store.at(database)]
    with ThreadPoolExecutor(8) as threads:
        fresh = list(threads.map(lambda number: stores[number % 2].submit(a_plan(number // 2)), range(32)))
    assert sum(fresh) == 16, "each was submitted twice"
    assert [each.sequence for each in stores[0].evaluations(limit=99)] == list(range(16, 0, -1))
    for store in stores:
        store.close()


def test_a_writer_waits_for_another_process_that_holds_the_lock(store: Store, database: Path) -> None:
    other = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as thread:
        submitted = thread.submit(store.submit, a_plan())
        assert store.evaluation(a_plan().id) is None, "readers do not wait"
        assert not submitted.done()
        other.execute("COMMIT")
        assert submitted.result(timeout=30)
    other.close()


def test_what_was_computed_for_another_evaluation_is_done_at_once(store: Store) -> None:
    small, large = a_plan(images=250), another(images=400)
    store.submit(small)
    done = drain(store)
    store.submit(large)
    found = store.evaluation(large.id)
    assert found is not None
    assert found.progress.shards == {ShardStatus.DONE: 2, ShardStatus.PENDING: 2}, (
        "0-100 and 100-200; 200-250 was shorter"
    )
    assert found.progress.runs == 0
    assert store.results(large.id) == [a_result(claimed.shard) for claimed in done[:2]]


def another(**changes: Any) -> Plan:
    return a_plan(**changes).model_copy(update={"id": "a" * 16})


def test_a_shard_is_handed_out_with_the_longest_result_of_its_first_images(store: Store) -> None:
    for number, images in enumerate((120, 250, 230)):
        store.submit(a_plan(images=images).model_copy(update={"id": f"{number:016}"}))
    drain(store)
    store.submit(another(images=400))
    known: dict[int, ShardResult | None] = {}
    while claimed := store.claim():
        known[claimed.shard.start] = store.known(claimed.plan, claimed.shard)
        complete(store, claimed)
    assert known == {200: a_result(a_plan(images=250).shards[2]), 300: None}


def test_a_smaller_selection_takes_the_first_images_of_a_longer_result(store: Store) -> None:
    store.submit(a_plan(images=250))
    drain(store)
    store.submit(another(images=240))
    claimed = claim(store)
    assert (claimed.shard.start, claimed.shard.stop) == (200, 240)
    known = store.known(claimed.plan, claimed.shard)
    assert known is not None
    assert (known.shard.stop, known.rows) == (240, a_result(a_plan(images=250).shards[2]).rows[:40])


def cascade(images: int, restarts: int, *, number: int, position: int = 0) -> Plan:
    attack = AttackChoice(name="pgd", restarts=restarts)
    condition = AdversarialCondition(threat=ThreatModel(Norm.LINF, 0.1), attacks=(attack,))
    conditions = (*preset("rotation-flip")[:position], condition)
    spec = EvaluationSpec(models=("tiny",), dataset="shapes", conditions=conditions)
    return a_plan(images=images, spec=spec).model_copy(update={"id": f"{number:016}"})


def test_a_shard_is_handed_out_with_the_result_of_fewer_restarts(store: Store) -> None:
    """Wherever the condition stood among others."""
    for number, (images, restarts) in enumerate([(60, 1), (60, 2), (90, 1), (60, 7)]):
        store.submit(cascade(images, restarts, number=number, position=number))
        while claimed := store.claim():
            result = a_result(claimed.shard)
            store.complete(claimed, result.model_copy(update={"rounds": restarts, "made_with": f"{restarts}"}))
    store.submit(cascade(100, 5, number=9))
    claimed = claim(store)
    known = store.known(claimed.plan, claimed.shard)
    assert known is not None
    assert (known.shard.images, known.rounds, known.made_with) == (60, 2, "2"), "60 x 2 is more than 90 x 1"


def test_equal_checkpoints_are_computed_once(store: Store) -> None:
    spec = EvaluationSpec(models=("tiny", "twin"), dataset="shapes")
    plan = a_plan(images=50, spec=spec).model_copy(update={"model_sha256": {"tiny": "e" * 64, "twin": "e" * 64}})
    store.submit(plan)
    drain(store)
    again = plan.model_copy(update={"id": "a" * 16})
    store.submit(again)
    assert {each.shard.model for each in store.results(again.id)} == {"tiny", "twin"}


def test_what_was_computed_after_a_submission_is_known_too(store: Store) -> None:
    store.submit(a_plan(images=150))
    store.submit(another(images=180))
    known: list[tuple[int, bool]] = []
    while claimed := store.claim():
        known.append((claimed.shard.stop, store.known(claimed.plan, claimed.shard) is not None))
        complete(store, claimed)
    assert known == [
        (100, False),
        (150, False),
        (100, True),
        (180, True),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"dataset_sha256": "f" * 64},
        {"model_sha256": {"tiny": "f" * 64}},
        {"spec": EvaluationSpec(models=("tiny",), dataset="shapes", seed=1)},
        {"spec": EvaluationSpec(models=("tiny",), dataset="shapes", precision="bfloat16")},
        {"spec": EvaluationSpec(models=("tiny",), dataset="shapes", conditions=preset("rotation-flip")[1:])},
    ],
    ids=["data", "model", "seed", "precision", "condition"],
)
def test_another_question_is_computed(store: Store, change: dict[str, object]) -> None:
    store.submit(a_plan())
    drain(store)
    other = another().model_copy(update=change)
    store.submit(other)
    found = store.evaluation(other.id)
    assert found is not None
    assert set(found.progress.shards) == {ShardStatus.PENDING}


def test_a_condition_at_another_place_is_found_again(store: Store) -> None:
    turned, mirrored = preset("rotation-flip")[1:3]
    clean = CleanCondition()
    first = a_plan(spec=EvaluationSpec(models=("tiny",), dataset="shapes", conditions=(clean, turned)))
    store.submit(first)
    drain(store)
    conditions = (clean, mirrored, turned)
    second = a_plan(spec=EvaluationSpec(models=("tiny",), dataset="shapes", conditions=conditions))
    store.submit(second.model_copy(update={"id": "a" * 16}))
    results = store.results("a" * 16)
    assert sorted((each.shard.condition, each.shard.start) for each in results) == [
        (condition, start) for condition in (0, 2) for start in (0, 100, 200)
    ]
    assert {claimed.shard.condition for claimed in drain(store)} == {1}


def test_images_of_a_running_shard_count_until_it_is_handed_out_again(store: Store) -> None:
    plan = a_plan()
    store.submit(plan)
    first, second = store.claim(), store.claim()
    assert first is not None
    assert second is not None
    complete(store, first)
    before = read(store).progress
    store.advance({second.id: 40})
    halfway = read(store).progress
    assert (halfway.images_done, halfway.passes_advanced) == (140, 40)
    assert (before.eta_s, halfway.eta_s) == pytest.approx((150 / 200, 110 / 200))
    store.recover()
    assert read(store).progress.images_done == 100
    again = store.claim()
    assert again is not None
    assert (again.id, read(store).progress.images_done) == (second.id, 100)
    store.advance({first.id: 7})
    assert read(store).progress.images_done == 100, "it is finished"


def test_a_database_of_another_version_is_refused_and_left_as_it_is(database: Path) -> None:
    Store.at(database).close()
    with closing(sqlite3.connect(database)) as db:
        db.execute("ALTER TABLE shards RENAME COLUMN start TO beginning")
    with pytest.raises(StoreError, match=r"is of another version: its table shards lacks start; move it aside"):
        Store.at(database)
    with closing(sqlite3.connect(database)) as db:
        assert "beginning" in {name for _, name, *_ in db.execute("PRAGMA table_info(shards)")}


def test_a_new_database_can_be_opened_by_many_at_once(tmp_path: Path) -> None:
    for attempt in range(10):
        path, together = tmp_path / f"{attempt}.db", Barrier(8)

        def open_it(path: Path = path, together: Barrier = together) -> None:
            together.wait()
            Store.at(path).close()

        with ThreadPoolExecutor(8) as threads:
            for opened in [threads.submit(open_it) for _ in range(8)]:
                opened.result()
