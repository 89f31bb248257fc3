"""What people write on evaluations, and how they find them again."""

import pytest

from service.jobs.labels import Label
from service.jobs.queue import Queue, SharedEvaluationError
from service.jobs.store import Store
from tests.server import a_plan
from tests.service.jobs.stores import drain, read

LABEL = Label(name="Before the release", tags=("release", "Größe"), note="100 % of it\nwith a_b and 'quotes'")


def found(store: Store, search: str) -> list[int]:
    return [int(each.id, 16) for each in store.evaluations(search=search)]


def test_a_label_stays_with_its_evaluation_whatever_becomes_of_it(store: Store, queue: Queue) -> None:
    store.submit(a_plan(0))
    assert read(store, 0).label == Label()
    queue.put_label(a_plan(0).id, LABEL)
    drain(store)
    assert read(store, 0).label == LABEL
    assert not store.submit(a_plan(0)), "it is there already"
    assert read(store, 0).label == LABEL


@pytest.mark.parametrize(
    "search",
    ["BEFORE", "release before", "größe", "100 %", "a_b", "'quotes'", f"{1:016x}", a_plan().spec.models[0], "  the\t"],
)
def test_evaluations_are_found_by_words_in_any_case(store: Store, queue: Queue, search: str) -> None:
    store.submit(a_plan(0))
    store.submit(a_plan(1))
    queue.put_label(a_plan(1).id, LABEL)
    assert 1 in found(store, search)


@pytest.mark.parametrize("search", ["100 %5", "a%b", "axb", "release absent", "x' OR '1'='1"])
def test_what_does_not_occur_is_not_found(store: Store, queue: Queue, search: str) -> None:
    store.submit(a_plan(1))
    queue.put_label(a_plan(1).id, LABEL)
    assert found(store, search) == []
    assert found(store, "") == [1]


def test_what_a_label_no_longer_has_is_not_found(store: Store, queue: Queue) -> None:
    store.submit(a_plan(1))
    queue.put_label(a_plan(1).id, LABEL)
    queue.put_label(a_plan(1).id, Label(name="after"))
    assert (found(store, "release"), found(store, "after")) == ([], [1])


def test_a_label_on_what_others_asked_for_too_is_refused(store: Store, queue: Queue) -> None:
    store.submit(a_plan(0), owner="alice")
    queue.put_label(a_plan(0).id, LABEL, "alice")
    store.submit(a_plan(0), owner="bob")
    with pytest.raises(SharedEvaluationError, match="limits or label"):
        queue.put_label(a_plan(0).id, Label(), "alice")
    assert read(store, 0).label == LABEL
