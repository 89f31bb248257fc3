"""A folder of results and the database answer the same questions in the same way."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evaluation import EvaluationSpec, Plan, ResultFolder, ShardResult
from evaluation.results.protocol import Results, Work, is_certain, look_up
from evaluation.results.tally import Tally
from service.jobs.store import Store
from tests.server import a_plan, a_result

CLEAN = EvaluationSpec(models=("tiny",), dataset="shapes", stop_width=0.05)


@pytest.fixture(params=["a folder", "the database"])
def results(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Results, Callable[[Plan, int], None]]]:
    """Somewhere to look results up, and how the first shards of a plan are stored there."""
    store, folder = Store.at(tmp_path / "jobs.sqlite"), ResultFolder(tmp_path / "results")

    def complete(plan: Plan, count: int) -> None:
        store.submit(plan)
        for _ in range(count):
            claimed = store.claim()
            assert claimed is not None
            assert store.complete(claimed, a_result(claimed.shard))

    def save(plan: Plan, count: int) -> None:
        for shard in plan.shards[:count]:
            folder.save(plan, a_result(shard))

    yield (folder, save) if request.param == "a folder" else (store, complete)
    store.close()


def test_a_shard_is_found_run_on_or_run(results: tuple[Results, Callable[[Plan, int], None]]) -> None:
    where, put = results
    put(a_plan(images=150), 2)
    plan = a_plan(images=180).model_copy(update={"id": "a" * 16})
    first, second = (look_up(plan, shard, where) for shard in plan.shards)
    assert first == a_result(plan.shards[0])
    assert second == Work(plan, plan.shards[1], a_result(a_plan(images=150).shards[1]))
    assert isinstance(second.known, ShardResult)
    other = plan.model_copy(update={"model_sha256": {"tiny": "f" * 64}})
    assert look_up(other, other.shards[0], where) == Work(other, other.shards[0])


def test_a_score_is_certain_once_its_interval_is_narrow(results: tuple[Results, Callable[[Plan, int], None]]) -> None:
    """All of 100 images right are an interval 3.6 points wide."""
    where, put = results
    plan = a_plan(images=300, spec=CLEAN)
    assert (where.finished(plan, plan.shards[2]), is_certain(plan, plan.shards[2], where)) == ([], False)
    put(plan, 1)
    assert where.finished(plan, plan.shards[2]) == [Tally.of(plan, a_result(plan.shards[0]))]
    assert is_certain(plan, plan.shards[2], where)
    assert look_up(plan, plan.shards[2], where) is None
    whole = a_plan(images=300, spec=CLEAN.model_copy(update={"stop_width": None}))
    assert not is_certain(whole, whole.shards[2], where)
