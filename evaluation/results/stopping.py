"""When enough images have been evaluated: the interval of a score is as narrow as was asked."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from evaluation.plan import Plan
from evaluation.results.tally import Tally
from evaluation.statistics import proportion

T = TypeVar("T")


def images_needed(plan: Plan, tallies: Iterable[Tally]) -> int | None:
    """The number of images, from the first, that make the interval of a score as narrow as was asked.

    Shards that finished out of order change nothing: only those without a gap from the first image are counted.

    Args:
        plan: whose `stop_width` says how wide the interval may be.
        tallies: of one model under one condition.

    Returns:
        None where no width was asked, or the images do not suffice yet.
    """
    if plan.spec.stop_width is None:
        return None
    scored = n = 0
    for tally in sorted(tallies, key=lambda each: each.shard.start):
        if tally.shard.start != n:
            return None
        scored, n = scored + tally.scored, n + tally.images
        score = proportion(scored, n)
        if score is not None and score.high - score.low <= plan.spec.stop_width:
            return n
    return None


def counted(plan: Plan, found: Iterable[T], tally: Callable[[T], Tally]) -> dict[tuple[str, int], list[T]]:
    """Choose what a report counts, by model and condition: the first shards that suffice, else all that are there, in order.

    Args:
        plan: of the evaluation.
        found: its finished shards: results or tallies.
        tally: of one of these.
    """
    chosen: dict[tuple[str, int], list[T]] = {
        (model, condition): [] for model in plan.spec.models for condition in range(len(plan.spec.conditions))
    }
    tallied = sorted(((tally(each), each) for each in found), key=lambda pair: pair[0].shard.start)
    tallies: dict[tuple[str, int], list[Tally]] = {key: [] for key in chosen}
    for each, item in tallied:
        key = each.shard.model, each.shard.condition
        tallies[key].append(each)
        chosen[key].append(item)
    for key, mine in tallies.items():
        if (needed := images_needed(plan, mine)) is not None:
            chosen[key] = chosen[key][: sum(each.shard.start < needed for each in mine)]
    return chosen


def is_complete(plan: Plan, counted: Sequence[Tally]) -> bool:
    """Whether what is counted of a model and condition is all there is, or as much as was asked."""
    return sum(each.images for each in counted) == plan.images or images_needed(plan, counted) is not None
