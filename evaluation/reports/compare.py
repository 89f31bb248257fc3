"""Two models on the same images: which is better, and could that be chance?"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import Field

from common.validation import Frozen
from evaluation.compute.conditions import Row
from evaluation.compute.runner import ShardResult
from evaluation.plan import Plan
from evaluation.reports.classes import ClassDifference, compare_classes, logit_names
from evaluation.results.tally import Tally
from evaluation.results.totals import Totals
from evaluation.spec import Condition
from evaluation.statistics import PairedDifference, holm, paired_difference


class ComparisonError(ValueError):
    """Two results cannot be compared; the message says why."""


@dataclass(frozen=True)
class Side:
    """One model of an evaluation, with the evaluation's finished shards; `classes` name the model's logits, if they are known."""

    plan: Plan
    model: str
    results: Sequence[ShardResult]
    classes: Sequence[str] = ()

    @property
    def name(self) -> str:
        """For example "resnet_mini of 0123456789abcdef"."""
        return f"{self.model} of {self.plan.id}"

    @cached_property
    def _totals(self) -> Totals:
        return Totals(self.plan, (Tally.of(self.plan, each) for each in self.results))

    def rows(self, condition: Condition) -> dict[int, Row]:
        """The rows that the report counts under a condition, by the index of the image.

        Raises:
            ComparisonError: some are still to come.
        """
        key = self.model, self.plan.spec.conditions.index(condition)
        total = self._totals.by_condition[key]
        mine = [each for each in self.results if (each.shard.model, each.shard.condition) == key]
        rows = {row.index: row for each in mine if total.counts(each.shard) for row in each.worst.rows}
        if not total.is_complete:
            raise ComparisonError(
                f"{self.name} has {len(rows)} of {self.plan.images} images under {condition.title}: wait until it is done"
            )
        return rows


class ConditionComparison(PairedDifference):
    """Two models under one condition; robustly right where the condition attacks.

    Attributes:
        title: of the condition.
        p_holm: the p value adjusted for the number of conditions compared.
        images_only_first: indices of images that the first alone gets right.
        images_only_second: indices of images that the second alone gets right.
        classes: those of whose images one model gets more right than the other, the largest difference first.
    """

    title: str
    p_holm: float
    images_only_first: tuple[int, ...]
    images_only_second: tuple[int, ...]
    classes: tuple[ClassDifference, ...]


class Comparison(Frozen):
    """Two models on the same images under the conditions that both met."""

    first: Annotated[str, Field(description="name of a model, with its evaluation")]
    second: str
    conditions: tuple[ConditionComparison, ...]


def compare(first: Side, second: Side) -> Comparison:
    """Compare two models image by image under every condition that both met.

    Raises:
        ComparisonError: a model is not part of its evaluation, images are missing, or data, selection, seed, precision or passes
            differ, or no condition is the same.
    """
    _require_same_protocol(first, second)
    common = [each for each in first.plan.spec.conditions if each in second.plan.spec.conditions]
    if not common:
        titles = (", ".join(each.title for each in side.plan.spec.conditions) for side in (first, second))
        raise ComparisonError("no condition is the same: {} against {}".format(*titles))
    pairs = [_pairs(condition, first, second) for condition in common]
    tables = [_table(each) for each in pairs]
    adjusted = holm([table.p for table in tables])
    names = logit_names(first.plan, first.model, first.classes)
    return Comparison(
        first=first.name,
        second=second.name,
        conditions=tuple(
            ConditionComparison(
                **table.model_dump(),
                title=condition.title,
                p_holm=p,
                images_only_first=tuple(index for index, (left, right) in pair.items() if left > right),
                images_only_second=tuple(index for index, (left, right) in pair.items() if left < right),
                classes=tuple(compare_classes(names, first.rows(condition).values(), pair)),
            )
            for condition, pair, table, p in zip(common, pairs, tables, adjusted, strict=True)
        ),
    )


def _require_same_protocol(first: Side, second: Side) -> None:
    for side in (first, second):
        if side.model not in side.plan.spec.models:
            known = ", ".join(side.plan.spec.models)
            raise ComparisonError(f"evaluation {side.plan.id} has no model {side.model!r}, it has {known}")
    facts = [
        {
            "data": f"{side.plan.spec.dataset} ({side.plan.dataset_sha256[:12]})",
            "number of images": side.plan.images,
            "images drawn": "evenly" if side.plan.spec.claim is None else "at random",
            "selection seed": side.plan.spec.selection_seed,
            "seed": side.plan.spec.seed,
            "logits": side.plan.spec.logits,
            "precision": side.plan.spec.precision,
            "passes of randomised models": "{} and {}".format(*side.plan.spec.averaging),
        }
        for side in (first, second)
    ]
    ours, theirs = facts
    if differing := [f"{name} {ours[name]} and {theirs[name]}" for name in ours if ours[name] != theirs[name]]:
        raise ComparisonError(
            f"{first.name} and {second.name} were not evaluated alike: {', '.join(differing)}; evaluate both in one run"
        )


def _pairs(condition: Condition, first: Side, second: Side) -> dict[int, tuple[bool, bool]]:
    """Which of the two is right, for each image that both saw."""
    first_rows, second_rows = first.rows(condition), second.rows(condition)
    both = sorted(first_rows.keys() & second_rows.keys())
    return {index: (first_rows[index].counts(condition), second_rows[index].counts(condition)) for index in both}


def _table(pairs: dict[int, tuple[bool, bool]]) -> PairedDifference:
    def count(cell: tuple[bool, bool]) -> int:
        return sum(pair == cell for pair in pairs.values())

    return paired_difference(count((True, True)), count((True, False)), count((False, True)), count((False, False)))
