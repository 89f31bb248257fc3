"""Shards added one at a time, in any order, make the report that they make together."""

import random
import time

import pytest

from evaluation import merge
from evaluation.compute.conditions import Row
from evaluation.compute.runner import ShardResult
from evaluation.reports.counting import report_of
from evaluation.results.tally import Tally
from evaluation.results.totals import Totals
from tests.evaluation.reports.table import PLAN, SPEC, result, row

SHARDS, SHARD_IMAGES = 30, 10


def results(seed: int) -> list[ShardResult]:
    """Of all conditions, with right and wrong images, and a few whose logits are not finite."""
    draws = random.Random(seed)

    def a_row(index: int) -> Row:
        label, clean, changed = (draws.randrange(3) for _ in range(3))
        flipped = {"flipped_by": "PGD"} if clean == label != changed else {}
        return row(index, label, clean, changed, **flipped)

    return [
        result(condition, [a_row(start + i) for i in range(SHARD_IMAGES)], start=start)
        for condition in range(len(SPEC.conditions))
        for start in range(0, SHARDS * SHARD_IMAGES, SHARD_IMAGES)
    ]


@pytest.mark.parametrize("stop_width", [None, 0.3, 0.12])
@pytest.mark.parametrize("seed", range(3))
def test_one_after_the_other_is_all_at_once(seed: int, stop_width: float | None) -> None:
    spec = SPEC.model_copy(update={"stop_width": stop_width})
    plan = PLAN.model_copy(update={"spec": spec, "images": SHARDS * SHARD_IMAGES, "shard_images": SHARD_IMAGES})
    every = results(seed)
    random.Random(seed).shuffle(every)
    totals = Totals(plan)
    for position, each in enumerate(every, 1):
        totals.add([Tally.of(plan, each)])
        if position % 7 == 0:
            assert report_of(totals) == merge(plan, every[:position]), "asked in between, it changes nothing"
    final = report_of(totals)
    assert final == merge(plan, every) and final.complete
    done = [each.images_done for each in final.models[0].conditions]
    assert (max(done) < plan.images) == (stop_width is not None), "a width that was reached ends a condition early"


def test_a_shard_that_was_added_before_is_refused() -> None:
    plan = PLAN.model_copy(update={"images": 40, "shard_images": SHARD_IMAGES})
    tallies = [Tally.of(plan, each) for each in results(0) if each.shard.stop <= plan.images]
    for known in (tallies[0], tallies[2]):  # without a gap before it, and after one
        totals = Totals(plan, [tallies[0], tallies[2]])
        with pytest.raises(ValueError, match=f"counted twice.*start={known.shard.start} "):
            totals.add([known])


def test_a_further_shard_costs_the_same_after_ten_thousand() -> None:
    plan = PLAN.model_copy(update={"images": 10_100 * SHARD_IMAGES, "shard_images": SHARD_IMAGES})
    first = Tally.of(plan, results(0)[0])

    def at(position: int) -> Tally:
        place = {"start": position * SHARD_IMAGES, "stop": (position + 1) * SHARD_IMAGES}
        return first.model_copy(update={"shard": first.shard.model_copy(update=place)})

    def fastest(totals: Totals, after: int) -> float:
        seconds: list[float] = []
        for position in range(after, after + 50):
            began = time.perf_counter()
            totals.add([at(position)])
            report_of(totals)
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    few, many = Totals(plan), Totals(plan, map(at, range(10_000)))
    assert fastest(many, 10_000) < 3 * fastest(few, 0)
