"""How far an evaluation is, and how long the rest will take."""

import pytest

from evaluation import EvaluationSpec
from service.jobs.evaluations import ShardStatus, Status
from service.jobs.store import Store
from tests.server import a_plan
from tests.service.jobs.stores import claim, complete, drain, read


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


def test_images_of_a_running_shard_count_until_it_is_handed_out_again(store: Store) -> None:
    plan = a_plan()
    store.submit(plan)
    first, second = store.claim(), store.claim()
    assert first is not None
    assert second is not None
    complete(store, first)
    before = read(store).progress
    store.advance({second.id: 0.4})
    halfway = read(store).progress
    assert (halfway.images_done, halfway.passes_advanced) == (140, 40)
    assert (before.eta_s, halfway.eta_s) == pytest.approx((150 / 200, 110 / 200))
    store.recover()
    assert read(store).progress.images_done == 100
    again = store.claim()
    assert again is not None
    assert (again.id, read(store).progress.images_done) == (second.id, 100)
    store.advance({first.id: 0.07})
    assert read(store).progress.images_done == 100, "it is finished"
