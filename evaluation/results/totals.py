"""What finished shards add up to, as they finish, and when enough have: a score is as certain as was asked, or a claim decided."""

from collections.abc import Iterable

from evaluation.plan import Plan, Shard
from evaluation.results.tally import Tally
from evaluation.statistics import proportion


class Total:
    """Finished shards of one model under one condition, added in any order.

    Shards after a gap count, but do not make a score certain: only those without a gap from the first image do, and from the first
    shard on that makes it certain enough no more are counted.

    Args:
        plan: whose `stop_width` says how wide the interval may be, or whose `claim` is to be decided.
        model: which.
        condition: its position in the specification.
    """

    def __init__(self, plan: Plan, model: str, condition: int) -> None:
        self._plan = plan
        self._first = Tally(shard=Shard(model=model, condition=condition, start=0, stop=0))
        self._after_gaps: dict[int, Tally] = {}
        self.is_certain = False

    @property
    def tally(self) -> Tally:
        """What is counted, added up in the order of the images."""
        after = [] if self.is_certain else [self._after_gaps[start] for start in sorted(self._after_gaps)]
        return Tally.joined([self._first, *after]) if after else self._first

    @property
    def is_complete(self) -> bool:
        """Whether what is counted is all there is, or as much as was asked."""
        return self.is_certain or self._first.images == self._plan.images

    def counts(self, shard: Shard) -> bool:
        """Whether one of the shards that were added is counted."""
        return not self.is_certain or shard.start < self._first.images

    def add(self, tallies: Iterable[Tally]) -> None:
        """Add finished shards; the cost does not depend on how many were added before.

        Raises:
            ValueError: a shard is there twice.
        """
        for tally in tallies:
            start = tally.shard.start
            if start < self._first.images or start in self._after_gaps:
                raise ValueError(f"a shard is counted twice: {tally.shard}")
            self._after_gaps[start] = tally
        run, scored, n = [self._first], self._first.scored, self._first.images
        while not self.is_certain and n in self._after_gaps:
            following = self._after_gaps.pop(n)
            run.append(following)
            scored, n = scored + following.scored, n + following.images
            self.is_certain = self._suffices(scored, n)
        if len(run) > 1:
            self._first = Tally.joined(run)

    def _suffices(self, scored: int, n: int) -> bool:
        spec, score = self._plan.spec, proportion(scored, n)
        if spec.claim is not None:
            return spec.claim.answer(scored, n, self._plan.population) in ("holds", "does not hold")
        return spec.stop_width is not None and score is not None and score.high - score.low <= spec.stop_width


class Totals:
    """Finished shards of an evaluation, by model and condition.

    Args:
        plan: of the evaluation.
        tallies: of shards that have finished, in any order.

    Raises:
        ValueError: a shard is there twice, or does not belong to the plan.
    """

    def __init__(self, plan: Plan, tallies: Iterable[Tally] = ()) -> None:
        conditions = range(len(plan.spec.conditions))
        self.plan = plan
        self.by_condition = {
            (model, each): Total(plan, model, each) for model in plan.spec.models for each in conditions
        }
        self.add(tallies)

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing left to count."""
        return all(each.is_complete for each in self.by_condition.values())

    def of(self, shard: Shard) -> Total:
        """The total that a shard is part of."""
        return self.by_condition[shard.model, shard.condition]

    def add(self, tallies: Iterable[Tally]) -> None:
        """Add finished shards; raises as the class does."""
        every = [*tallies]
        if strangers := [each.shard for each in every if not self.plan.has(each.shard)]:
            raise ValueError(f"shards that are not of this plan: {sorted(map(str, strangers))}")
        new: dict[tuple[str, int], list[Tally]] = {}
        for each in every:
            new.setdefault((each.shard.model, each.shard.condition), []).append(each)
        for key, mine in new.items():
            self.by_condition[key].add(mine)
