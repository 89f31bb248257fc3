"""When enough images have been evaluated: the interval of a score is as narrow as was asked."""

from collections.abc import Iterable
from typing import NamedTuple

from evaluation.compute.runner import ShardResult
from evaluation.plan import Plan
from evaluation.statistics import proportion


class Tally(NamedTuple):
    """A finished shard, counted: `counted` of its images are classified correctly and, if attacked, still are."""

    start: int
    images: int
    counted: int

    @classmethod
    def of(cls, plan: Plan, result: ShardResult) -> "Tally":
        """Count a result."""
        condition = plan.spec.conditions[result.shard.condition]
        return cls(result.shard.start, len(result.rows), sum(row.counts(condition) for row in result.rows))


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
    counted = n = 0
    for tally in sorted(tallies):
        if tally.start != n:
            return None
        counted, n = counted + tally.counted, n + tally.images
        score = proportion(counted, n)
        if score is not None and score.high - score.low <= plan.spec.stop_width:
            return n
    return None
