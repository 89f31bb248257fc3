"""What a report counts of finished shards: numbers instead of rows, which add up."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from common.validation import Frozen
from evaluation.compute.checks import Check
from evaluation.compute.conditions import Row
from evaluation.compute.examples import Example
from evaluation.compute.runner import ShardResult
from evaluation.plan import Plan, Shard
from evaluation.spec import Attacking, Condition

TOP_K = 5
"""Classes with the largest logits among which the right one counts for top-5 accuracy."""


class Tally(Frozen):
    """What a report counts of a finished shard, or of several of one model and condition.

    Images that only checks have flipped count as flipped everywhere but in `scored`.

    Attributes:
        shard: what was counted.
        scored: images that count for the score, before checks flip more; decides when a score is certain enough.
        clean_right: images right as they are; if the model is randomised, in most passes, as everywhere else.
        right: right under the condition.
        in_top5: right class among the five largest logits, under the condition.
        flipped: right as they are, and flipped by an attack.
        reached: predicted as the target, within budget.
        flipped_in_float32: see `Row`.
        labels: how many images each right class has.
        flipped_at: how many images were flipped at each radius of a curve.
        clean_passes: if the model is randomised, how many images have each number of right passes as they are.
        passes: the same under the condition.
        not_finite: indices of images that have a logit that is not finite.
        outside_budget: indices of images where an attack left the budget.
        flipped_without_gradient: indices of images flipped by an attack that uses no gradient.
        preflight: checks of the model.
        checks: checks of the condition.
        not_run: titles of attacks that need a gradient, where the model has none.
        examples: pictures of flipped images.
        images_forwarded: passes of an image through the model.
        seconds: of computing.
        made_with: versions and hardware.
    """

    shard: Shard
    scored: int = 0
    clean_right: int = 0
    right: int = 0
    in_top5: int = 0
    flipped: int = 0
    reached: int = 0
    flipped_in_float32: int = 0
    labels: dict[int, int] = {}
    flipped_at: dict[float, int] = {}
    clean_passes: dict[int, int] = {}
    passes: dict[int, int] = {}
    not_finite: tuple[int, ...] = ()
    outside_budget: tuple[int, ...] = ()
    flipped_without_gradient: tuple[int, ...] = ()
    preflight: tuple[Check, ...] = ()
    checks: tuple[Check, ...] = ()
    not_run: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    images_forwarded: int = 0
    seconds: float = 0.0
    made_with: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """Number of images."""
        return self.shard.images

    @classmethod
    def of(cls, plan: Plan, result: ShardResult) -> "Tally":
        """Count a result."""
        condition = plan.spec.conditions[result.shard.condition]
        return cls(
            shard=result.shard,
            scored=sum(row.counts(condition) for row in result.rows),
            preflight=result.preflight,
            checks=result.checks,
            not_run=result.not_run,
            examples=result.examples,
            images_forwarded=result.images_forwarded,
            seconds=result.seconds,
            made_with=(result.made_with,) if result.made_with else (),
            **_count(condition, result.worst.rows),
        )

    @classmethod
    def joined(cls, tallies: Sequence["Tally"]) -> "Tally":
        """Add up tallies of one model and condition, at least one, given in the order of their images."""
        first, last = tallies[0].shard, tallies[-1].shard
        values = {name: _sum([getattr(each, name) for each in tallies]) for name in cls.model_fields if name != "shard"}
        values |= {name: tuple(dict.fromkeys(values[name])) for name in ("not_run", "made_with")}
        return cls.model_construct(shard=first.model_copy(update={"stop": last.stop}), **values)


def _count(condition: Condition, rows: Sequence[Row]) -> dict[str, Any]:
    choices = condition.attacks if isinstance(condition, Attacking) else ()
    without_gradient = {choice.name for choice in choices if not choice.create().uses_gradient}
    return {
        "clean_right": sum(row.clean_right for row in rows),
        "right": sum(row.right for row in rows),
        "in_top5": sum(row.rank < TOP_K for row in rows),
        "flipped": sum(row.flipped_by is not None for row in rows),
        "reached": sum(row.reached is True for row in rows),
        "flipped_in_float32": sum(row.flipped_in_float32 for row in rows),
        "labels": Counter(row.label for row in rows),
        "flipped_at": Counter(row.flipped_eps for row in rows if row.flipped_eps is not None),
        "clean_passes": Counter(row.clean_correct for row in rows if row.clean_correct is not None),
        "passes": Counter(row.correct for row in rows if row.correct is not None),
        "not_finite": _indices(row for row in rows if row.prediction is None or row.clean_prediction is None),
        "outside_budget": _indices(row for row in rows if not row.within_budget),
        "flipped_without_gradient": _indices(row for row in rows if row.flipped_by in without_gradient),
    }


def _indices(rows: Iterable[Row]) -> tuple[int, ...]:
    return tuple(row.index for row in rows)


def _sum(values: list[Any]) -> Any:
    match values[0]:
        case tuple():
            return tuple(chain.from_iterable(values))
        case dict():
            return sum(map(Counter, values), Counter())
        case _:
            return sum(values)
