"""Runs the shards of evaluations on one device: `evaluate` does it here and now, the service in a process for each device."""

from collections.abc import Mapping
from functools import lru_cache, partial

import models
from evaluation.catalog import Catalog, Roles
from evaluation.compute.progress import OnProgress
from evaluation.compute.runner import ShardResult, run_shard
from evaluation.data.sources import DatasetError
from evaluation.results.protocol import Work

MODELS_LOADED = 2
"""Classifiers that stay loaded, those used last."""


class Worker:
    """Runs shards one after the other; the models used last stay loaded, wherever their files lie.

    Args:
        device: where to compute.
    """

    _catalog: Catalog

    def __init__(self, device: str) -> None:
        self._device = device
        self._load = lru_cache(MODELS_LOADED)(self._load_folded)

    def run(
        self,
        catalog: Catalog,
        work: Work,
        *,
        side_by_side: int = 1,
        on_progress: OnProgress = lambda done, total: None,
    ) -> ShardResult:
        """Run a shard; files that have changed since the evaluation was planned are refused.

        Args:
            catalog: where models and data are.
            work: the shard, with the hashes of the files it is about, and what is known of it.
            side_by_side: workers that run shards of the evaluation; the next one here is likely as many further.
            on_progress: see `run_shard`.

        Raises:
            CheckpointError: a checkpoint or its card is not the one that was asked about, or cannot be used.
            DatasetError: the data set is not, or an image cannot be decoded.
            AttackError: an attack cannot be run as asked.
            PreflightError: the model cannot be evaluated as it is.
        """
        self._catalog, plan, shard = catalog, work.plan, work.shard
        sha256 = plan.model_sha256[shard.model]
        self._require_unchanged({shard.model: sha256})
        dataset = self._catalog.open_dataset(plan.spec.dataset)
        if dataset.sha256 != plan.dataset_sha256:
            raise DatasetError(_changed(plan.spec.dataset, dataset.sha256, plan.dataset_sha256))
        roles = self._load(shard.model, plan.spec.precision, plan.columns(shard.model), sha256)
        return run_shard(
            plan.spec,
            shard,
            dataset=dataset,
            known=work.known,
            broken=plan.broken,
            sources=partial(self._sources, plan.sources.get(shard.model, {})),
            following=plan.following(shard, side_by_side),
            on_progress=on_progress,
            **roles._asdict(),
        )

    def _sources(self, names: Mapping[str, str]) -> list[models.Classifier]:
        """Load the models whose adversarial images are tried on another, by their names with the hashes."""
        self._require_unchanged(names)
        return [self._load(name, "float32", None, sha256).classifier for name, sha256 in names.items()]

    def _require_unchanged(self, names: Mapping[str, str]) -> None:
        for name, then in names.items():
            if (now := self._catalog.model_sha256(name)) != then:
                raise models.CheckpointError(_changed(name, now, then))

    def _load_folded(
        self, model: str, precision: models.Precision, columns: tuple[int, ...] | None, _sha256: str
    ) -> Roles:
        return self._catalog.load_folded(model, self._device, precision, columns)


def _changed(name: str, now: str, then: str) -> str:
    return f"{name} has changed since the evaluation was submitted: sha256 {now}, then {then}"
