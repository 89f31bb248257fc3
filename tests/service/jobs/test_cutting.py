"""An evaluation is cut into shards as their turn comes: nothing is left out, done twice, or done out of order."""

import time

import pytest

from evaluation import EvaluationSpec, Plan, preset
from service.jobs import cutting
from service.jobs.evaluations import Evaluation, ShardStatus, Status
from service.jobs.queue import Queue
from service.jobs.store import Store
from tests.server import a_plan
from tests.service.jobs.stores import claim, complete

SHARDS_OF_A_CONDITION = 5


@pytest.fixture
def plan() -> Plan:
    return of_angles(SHARDS_OF_A_CONDITION)


@pytest.fixture
def by_threes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "CUT_AT_FIRST", 3)
    monkeypatch.setattr(cutting, "CUT_AT_ONCE", 3)


def of_angles(shards: int) -> Plan:
    spec = EvaluationSpec(models=("tiny",), dataset="shapes", conditions=preset("angles"))
    return a_plan(images=100 * shards - 1, spec=spec)


def read(store: Store, plan: Plan) -> Evaluation:
    found = store.evaluation(plan.id)
    assert found is not None
    return found


def test_hundreds_of_thousands_of_shards_are_submitted_and_read_at_once(store: Store) -> None:
    plan = of_angles(9_600)
    started = time.perf_counter()
    assert store.submit(plan, owner="alice")
    found = read(store, plan)
    (waiting,) = Queue(store).waiting()
    assert time.perf_counter() - started < 2.0, "0.1 s alone"
    assert found.progress.shards == {ShardStatus.PENDING: 24 * 9_600}
    assert found.progress.images == {ShardStatus.PENDING: 24 * plan.images}
    assert (waiting.shards, waiting.passes) == (24 * 9_600, plan.passes)
    assert Queue(store).unfinished_passes("alice") == plan.passes


@pytest.mark.usefixtures("by_threes")
def test_all_shards_have_their_turn_once_and_in_order(store: Store, plan: Plan) -> None:
    store.submit(plan)
    claimed = [claim(store) for _ in plan.shards]
    assert [each.shard for each in claimed] == plan.shards
    assert store.claim() is None
    assert all(complete(store, each) for each in claimed)
    assert read(store, plan).status is Status.DONE
    assert sorted(each.shard.start for each in store.results(plan.id)) == sorted(each.start for each in plan.shards)


@pytest.mark.usefixtures("by_threes")
def test_what_is_computed_is_done_when_it_is_cut(store: Store, plan: Plan) -> None:
    store.submit(plan)
    while found := store.claim():
        complete(store, found)
    longer = of_angles(SHARDS_OF_A_CONDITION + 1).model_copy(update={"id": "longer"})
    store.submit(longer)
    known = {(each.condition, each.start) for each in plan.shards if each.images == 100}
    claimed = [found.shard for found in iter(store.claim, None)]
    assert claimed == [each for each in longer.shards if (each.condition, each.start) not in known]
    tallies, until = store.finished_after(longer.id, 0)
    assert (len(tallies), until) == (len(known), len(known))


@pytest.mark.usefixtures("by_threes")
def test_what_is_not_cut_yet_is_cancelled_and_taken_up_again(store: Store, plan: Plan) -> None:
    store.submit(plan)
    complete(store, claim(store))
    store.cancel(plan.id)
    assert read(store, plan).progress.shards == {ShardStatus.DONE: 1, ShardStatus.DROPPED: len(plan.shards) - 1}
    assert store.claim() is None
    assert store.submit(plan)
    assert [found.shard for found in iter(store.claim, None)] == plan.shards[1:]


@pytest.mark.usefixtures("by_threes")
def test_what_is_not_cut_yet_is_skipped_with_its_condition(store: Store, plan: Plan) -> None:
    store.submit(plan)
    store.skip(claim(store))
    assert read(store, plan).progress.shards[ShardStatus.SKIPPED] == SHARDS_OF_A_CONDITION
    assert claim(store).shard == plan.shards[SHARDS_OF_A_CONDITION]
