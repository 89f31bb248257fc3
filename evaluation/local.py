"""Run an evaluation here and now, without a server or a database."""

from collections.abc import Callable
from tempfile import TemporaryDirectory

from evaluation.catalog import Catalog
from evaluation.compute.runner import OnProgress, ShardResult, best_device
from evaluation.data.broken import OnLook
from evaluation.plan import make_plan
from evaluation.reports.counting import merge
from evaluation.reports.report import Report
from evaluation.results.folder import ResultFolder
from evaluation.results.protocol import Work, look_up
from evaluation.spec import EvaluationSpec
from evaluation.worker import Worker


def evaluate(
    spec: EvaluationSpec,
    *,
    catalog: Catalog | None = None,
    device: str | None = None,
    results: ResultFolder | None = None,
    on_shard: Callable[[ShardResult, int, int], None] = lambda result, done, total: None,
    on_progress: OnProgress = lambda done, total: None,
    on_look: OnLook = lambda done, total: None,
) -> Report:
    """Evaluate every model under every condition.

    Args:
        spec: what to evaluate.
        catalog: where names are looked up; the project's own models and data by default.
        device: where to compute; the GPU if there is one by default.
        results: where finished shards are stored and found again, so that an interrupted evaluation resumes;
            a temporary folder by default.
        on_shard: called after each shard with its result, the shards done and the shards in all.
        on_progress: called after each batch and shard with the images done and in all, over all models and conditions.
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
        worker = Worker(catalog, device)
        finished: list[ShardResult] = []
        shards = plan.shards
        images, total = 0, sum(shard.images for shard in shards)

        def on_batch(done: int, in_shard: int) -> None:
            on_progress(images + shard.images * done // in_shard, total)

        for done, shard in enumerate(shards, start=1):
            result = look_up(plan, shard, results)
            if isinstance(result, Work):
                result = worker.run(result, on_progress=on_batch)
                results.save(plan, result)
            images += shard.images
            on_progress(images, total)
            if result is not None:
                finished.append(result)
                on_shard(result, done, len(shards))
        return merge(plan, finished)
