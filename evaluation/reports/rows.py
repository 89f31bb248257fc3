"""Rows of single images, for tables that people analyse themselves."""

from collections.abc import Iterable
from typing import Any

from evaluation.compute.runner import ShardResult
from evaluation.plan import Plan
from evaluation.results.tally import Tally
from evaluation.results.totals import Totals


def image_rows(plan: Plan, results: Iterable[ShardResult], files: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """One row for each image that the report counts, model and condition, in the order of the specification.

    If one of the models is randomised, all rows have the numbers of its passes, which are None for others.

    Args:
        plan: of the evaluation.
        results: its finished shards.
        files: paths of the data set's images by index, if they are to be named.
    """
    found = counted(plan, results)
    passes: dict[str, None] = {}
    if any(row.passes is not None for result in found for row in result.rows[:1]):
        passes = dict.fromkeys(("passes", "clean_correct", "correct"))
    return [
        {
            "model": result.shard.model,
            "condition": plan.spec.conditions[result.shard.condition].title,
            "file": files[row.index] if files else None,
            **row.model_dump(),
            **{name: getattr(row, name) for name in passes},
        }
        for result in found
        for row in result.worst.rows
    ]


def counted(plan: Plan, results: Iterable[ShardResult]) -> list[ShardResult]:
    """Those of some finished shards that the report counts, in the order of the specification."""
    found = [*results]
    totals = Totals(plan, (Tally.of(plan, each) for each in found))
    order = {model: position for position, model in enumerate(plan.spec.models)}
    found.sort(key=lambda each: (order[each.shard.model], each.shard.condition, each.shard.start))
    return [each for each in found if totals.of(each.shard).counts(each.shard)]
