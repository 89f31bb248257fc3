"""What is known of models from their evaluations: the latest that is done, of the same file, seen by who asks."""

from evaluation.plan import Plan
from service.jobs.evaluations import Evaluation
from service.jobs.reports.counted import Reports
from service.jobs.reports.measurements import Measurements
from service.jobs.store import Store
from tests.server import a_plan, a_result

SHA = {"tiny": "e" * 64}


def run(store: Store, plan: Plan, *, owner: str = "", prediction: int = 0) -> None:
    store.submit(plan, owner=owner)
    while claimed := store.claim():
        store.complete(claimed, a_result(claimed.shard, prediction=prediction))


def test_the_latest_that_is_done_counts(store: Store) -> None:
    measurements = Measurements(store, Reports(store))
    assert measurements.latest(SHA, None) == {}
    run(store, a_plan(1, images=10))
    run(store, a_plan(2, images=10), owner="one")
    store.submit(a_plan(3, images=10))
    store.cancel(a_plan(3).id)
    store.submit(a_plan(4, images=10))
    assert measurements.latest(SHA, None)["tiny"].id == a_plan(2).id
    assert measurements.latest(SHA, "one")["tiny"].id == a_plan(2).id
    assert measurements.latest(SHA, "two") == {}
    assert measurements.latest({"tiny": "f" * 64}, None) == {}, "another file had the name then"


def test_numbers_are_counted_once_and_only_if_they_may_be(store: Store) -> None:
    reports = Reports(store)
    measurements = Measurements(store, reports)
    run(store, a_plan(1, images=10), prediction=1)
    found = measurements.latest(SHA, None)["tiny"]
    assert measurements.of("tiny", found, may_count=False).grade is None
    measured = measurements.of("tiny", found)
    assert measured.clean_accuracy is not None
    assert (measured.clean_accuracy.count, measured.clean_accuracy.n) == (0, 10)
    assert (measured.lowest_under, measured.evaluation) == ("clean", found.id)
    store.close()
    assert measurements.of("tiny", found, may_count=False) == measured


def test_classes_are_those_of_the_logits_that_could_be_chosen(store: Store) -> None:
    measurements = Measurements(store, Reports(store))
    plan = a_plan(1, images=10)
    match = plan.matches["tiny"].model_copy(update={"logits": (2, 4), "model_classes": 5})
    masked = plan.spec.model_copy(update={"logits": "dataset"})
    run(store, plan.model_copy(update={"matches": {"tiny": match}, "spec": masked}))
    found = measurements.latest(SHA, None)["tiny"]
    assert isinstance(found, Evaluation)
    (right,) = measurements.by_class("tiny", found, tuple("abcde"))
    assert (right.name, right.clean_accuracy.count, right.clean_accuracy.n) == ("c", 10, 10)
