"""What an evaluation asks of the place where its results are stored, and what that leaves to do for a shard."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from evaluation.compute.runner import ShardResult
from evaluation.plan import Plan, Shard
from evaluation.results.tally import Tally
from evaluation.results.totals import Total, Totals


class Results(Protocol):
    """Finished shards, to be read: in a folder or a database. Each stores new ones in its own way."""

    def computed(self, plan: Plan, shard: Shard) -> ShardResult | None:
        """Read the result of a shard, whatever evaluation it was computed for."""
        ...

    def tallies(self, plan: Plan, shards: Iterable[Shard]) -> list[Tally]:
        """Read the tallies of the shards that are computed, whatever evaluation they were computed for."""
        ...

    def known(self, plan: Plan, shard: Shard) -> ShardResult | None:
        """Read the result from which a shard has least left to do."""
        ...

    def finished(self, plan: Plan, shard: Shard) -> list[Tally]:
        """Read the tallies of the evaluation's finished shards of a shard's model and condition."""
        ...


@dataclass(frozen=True)
class Work:
    """A shard to run.

    Attributes:
        plan: its evaluation.
        shard: which part of it.
        known: what came of its first images, or of the beginning of its cascade, before.
    """

    plan: Plan
    shard: Shard
    known: ShardResult | None = None


def is_certain(plan: Plan, shard: Shard, results: Results) -> bool:
    """Whether the score of a shard's model and condition is as certain as was asked without further shards."""
    total = _total(plan, shard, results)
    return total is not None and total.is_certain


def look_up(plan: Plan, shard: Shard, results: Results) -> ShardResult | Work | None:
    """Decide what a shard needs.

    Returns:
        Its result, if it was computed before; the work that is left; or None, if its score is certain enough without it.
    """
    total = _total(plan, shard, results)
    if total is not None and not total.counts(shard):
        return None
    return results.computed(plan, shard) or Work(plan, shard, results.known(plan, shard))


def _total(plan: Plan, shard: Shard, results: Results) -> Total | None:
    """What is finished of a shard's model and condition; None where that does not end it early."""
    if plan.spec.stop_width is None and plan.spec.claim is None:
        return None
    return Totals(plan, results.finished(plan, shard)).of(shard)
