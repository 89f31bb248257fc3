"""What was computed before, for whatever evaluation, is used again."""

from typing import Any

import pytest

from attacks import Norm, ThreatModel
from evaluation import AdversarialCondition, AttackChoice, CleanCondition, EvaluationSpec, Plan, ShardResult, preset
from service.jobs.evaluations import ShardStatus
from service.jobs.store import Store
from tests.server import a_plan, a_result
from tests.service.jobs.stores import claim, complete, drain, read


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


def test_results_that_another_evaluation_has_too_stay(store: Store) -> None:
    store.submit(a_plan())
    drain(store)
    store.submit(another())
    store.remove(a_plan().id)
    assert len(store.results(another().id)) == 3
    assert store.submit(a_plan())
    assert read(store).progress.shards == {ShardStatus.DONE: 3}, "they are found there"
