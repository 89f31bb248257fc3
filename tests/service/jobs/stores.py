"""Steps on a store that its tests share."""

from service.jobs.evaluations import Claim, Evaluation
from service.jobs.store import Store
from tests.server import a_plan, a_result


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
