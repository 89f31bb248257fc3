"""Rows of single images, for tables that people analyse themselves."""

from collections.abc import Iterable
from typing import Any

from evaluation.compute.runner import ShardResult
from evaluation.plan import Plan
from evaluation.reports.counting import counted


def image_rows(plan: Plan, results: Iterable[ShardResult], files: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """One row for each image that the report counts, model and condition, in the order of the specification.

    Args:
        plan: of the evaluation.
        results: its finished shards.
        files: paths of the data set's images by index, if they are to be named.
    """
    there = [*results]
    return [
        {
            "model": model,
            "condition": condition.title,
            "file": files[row.index] if files else None,
            **row.model_dump(),
        }
        for model in plan.spec.models
        for condition in plan.spec.conditions
        for result in counted(plan, model, condition, there)
        for row in result.rows
    ]
