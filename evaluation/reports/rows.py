"""Rows of single images, for tables that people analyse themselves."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from evaluation.compute.runner import ShardResult
from evaluation.plan import Plan
from evaluation.results.stopping import counted
from evaluation.results.tally import Tally


def image_rows(plan: Plan, results: Iterable[ShardResult], files: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """One row for each image that the report counts, model and condition, in the order of the specification.

    Args:
        plan: of the evaluation.
        results: its finished shards.
        files: paths of the data set's images by index, if they are to be named.
    """
    return [
        {
            "model": model,
            "condition": plan.spec.conditions[condition].title,
            "file": files[row.index] if files else None,
            **row.model_dump(),
        }
        for (model, condition), counted_results in counted(plan, results, partial(Tally.of, plan)).items()
        for result in counted_results
        for row in result.worst.rows
    ]
