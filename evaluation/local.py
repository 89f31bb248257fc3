"""Run an evaluation here and now, without a server or a database."""

from collections.abc import Callable
from functools import partial

import models
from evaluation.catalog import Catalog
from evaluation.compute.runner import OnProgress, ShardResult, best_device, run_shard
from evaluation.data.broken import OnLook
from evaluation.plan import Plan, Shard, make_plan
from evaluation.reports.counting import merge, sufficient
from evaluation.reports.report import Report
from evaluation.results.folder import ResultFolder
from evaluation.spec import EvaluationSpec


def evaluate(
    spec: EvaluationSpec,
    *,
    catalog: Catalog | None = None,
    device: str | None = None,
    kept: ResultFolder | None = None,
    on_shard: Callable[[ShardResult, int, int], None] = lambda result, done, total: None,
    on_progress: OnProgress = lambda done, total: None,
    on_look: OnLook = lambda done, total: None,
) -> Report:
    """Evaluate every model under every condition.

    Args:
        spec: what to evaluate.
        catalog: where names are looked up; the project's own models and data by default.
        device: where to compute; the GPU if there is one by default.
        kept: where finished shards are kept, and those of earlier evaluations are found; an interrupted evaluation goes on there.
        on_shard: called after each shard with its result, the shards done and the shards in all.
        on_progress: called after each batch and shard with the images done and in all, over all models and conditions.
        on_look: called as pictures are looked at, before the first shard.

    Raises:
        UnknownNameError: there is no such model or data set.
        CheckpointError: a checkpoint cannot be used.
        DatasetError: the data set cannot be used, or does not fit a model.
        AttackError: an attack cannot be run as asked.
        PreflightError: a model cannot be evaluated as it is.
        OSError: finished shards cannot be kept.
    """
    catalog, device = catalog or Catalog(), device or best_device()
    if kept:
        kept.require_writable()
    plan = make_plan(spec, catalog, device=device, on_look=on_look)
    dataset = catalog.open_dataset(spec.dataset)
    results: list[ShardResult] = []
    shards = plan.shards
    loaded, roles = "", None
    images, total = 0, sum(shard.images for shard in shards)

    def on_batch(done: int, in_shard: int) -> None:
        on_progress(images + shard.images * done // in_shard, total)

    for done, shard in enumerate(shards, start=1):
        if sufficient(plan, shard.model, spec.conditions[shard.condition], results):
            images += shard.images
            continue
        result = kept.computed(plan, shard) if kept else None
        if result is None:
            if roles is None or loaded != shard.model:
                loaded, roles = (
                    shard.model,
                    catalog.load_folded(shard.model, device, spec.precision, plan.columns(shard.model)),
                )
            known = kept.known(plan, shard) if kept else None
            sources = partial(_sources, catalog, plan, shard, device)
            result = run_shard(
                spec,
                shard,
                dataset=dataset,
                known=known,
                broken=plan.broken,
                sources=sources,
                following=plan.following(shard),
                on_progress=on_batch,
                **roles._asdict(),
            )
            if kept:
                kept.keep(plan, result)
        results.append(result)
        images += shard.images
        on_progress(images, total)
        on_shard(result, done, len(shards))
    return merge(plan, results)


def _sources(catalog: Catalog, plan: Plan, shard: Shard, device: str) -> list[models.Classifier]:
    """Load the models whose adversarial images are tried on the shard's."""
    names = plan.sources.get(shard.model, {})
    return [catalog.load_folded(name, device, "float32").classifier for name in names]
