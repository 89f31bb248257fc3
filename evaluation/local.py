"""Run an evaluation, or some of its shards, here and now, without a server or a database."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Self

from evaluation.catalog import Catalog
from evaluation.compute.progress import OnProgress
from evaluation.compute.runner import ShardResult, best_device
from evaluation.data.broken import OnLook
from evaluation.plan import Plan, Shard, make_plan
from evaluation.reports.counting import merge
from evaluation.reports.report import Report
from evaluation.results.folder import ResultFolder
from evaluation.results.protocol import Work, look_up
from evaluation.results.tally import Tally
from evaluation.spec import EvaluationSpec
from evaluation.worker import Worker

OnShard = Callable[[ShardResult, int, int], None]


def _nothing(*_told: object) -> None:
    """Nobody wants to know."""


def evaluate(
    spec: EvaluationSpec,
    *,
    catalog: Catalog | None = None,
    device: str | None = None,
    results: ResultFolder | None = None,
    on_shard: OnShard = _nothing,
    on_progress: OnProgress = _nothing,
    on_look: OnLook = _nothing,
) -> Report:
    """Evaluate every model under every condition.

    Args:
        spec: what to evaluate.
        catalog: where names are looked up; the project's own models and data by default.
        device: where to compute; the GPU if there is one by default.
        results: where finished shards are stored and found again, so that an interrupted evaluation resumes;
            a temporary folder by default.
        on_shard: called after each shard with its result, the shards done and the shards in all.
        on_progress: called after each batch and shard, and within long batches, with the images done and in all, over all models
            and conditions.
        on_look: called as pictures are looked at, before the first shard.

    Raises:
        UnknownNameError: there is no such model or data set.
        CheckpointError: a checkpoint cannot be used.
        DatasetError: the data set cannot be used, or does not fit a model.
        AttackError: an attack cannot be run as asked.
        PreflightError: a model cannot be evaluated as it is.
        OSError: finished shards cannot be stored.
    """
    catalog, device = catalog or Catalog(), device or best_device()
    with TemporaryDirectory(prefix="withstand-results-") as temporary:
        results = results or ResultFolder(temporary)
        results.require_writable()
        plan = make_plan(spec, catalog, device=device, on_look=on_look)
        found = Shards(plan, plan.shards, catalog, results).run(device, on_shard=on_shard, on_progress=on_progress)
        return merge(plan, found)


@dataclass(frozen=True)
class Shards:
    """Shards of a plan, to be run one after the other.

    Attributes:
        plan: of the evaluation.
        shards: which of its shards.
        catalog: where its models and its data are.
        results: where finished shards are found and stored.
    """

    plan: Plan
    shards: Sequence[Shard]
    catalog: Catalog
    results: ResultFolder

    def of(self, shards: Sequence[Shard]) -> Self:
        """Only these."""
        return replace(self, shards=shards)

    def tallies(self) -> list[Tally]:
        """Count those that are finished."""
        return self.results.tallies(self.plan, self.shards)

    def run(
        self, device: str, *, on_shard: OnShard = _nothing, on_progress: OnProgress = _nothing
    ) -> list[ShardResult]:
        """Give the result of each, computed now or before, but of those whose score is certain enough without; see `evaluate`."""
        worker = Worker(device)
        finished: list[ShardResult] = []
        images, total = 0, sum(shard.images for shard in self.shards)

        def on_batch(done: float, in_shard: int) -> None:
            on_progress(images + int(shard.images * done / in_shard), total)

        for done, shard in enumerate(self.shards, start=1):
            result = look_up(self.plan, shard, self.results)
            if isinstance(result, Work):
                result = worker.run(self.catalog, result, on_progress=on_batch)
                self.results.save(self.plan, result)
            images += shard.images
            on_progress(images, total)
            if result is not None:
                finished.append(result)
                on_shard(result, done, len(self.shards))
        return finished
