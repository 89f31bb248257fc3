"""What is known of models from the evaluations they were in, counted once for each evaluation."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from threading import Lock
from typing import Annotated

from pydantic import Field

from common.validation import Frozen
from evaluation.compute.checks import Grade
from evaluation.compute.conditions import Row
from evaluation.plan import Plan
from evaluation.reports.calibration import Calibration, calibrate
from evaluation.reports.classes import ClassResult, logit_names, score_classes
from evaluation.reports.report import ModelReport
from evaluation.reports.rows import counted
from evaluation.statistics import Proportion
from service.jobs.evaluations import Evaluation, Status
from service.jobs.reports.counted import Reports
from service.jobs.store import Store

LOOKED_AT = 100
"""Evaluations among which the latest one with a model is looked for, the newest first."""

COUNTED = 200
"""Evaluations whose numbers stay in memory, without pictures."""


class ClassAccuracy(Frozen):
    """How often a model is right on the images of one class."""

    name: str
    clean_accuracy: Proportion


class Measured(Frozen):
    """What the latest evaluation of a model that is done has found; `grade` is null while it is being counted."""

    evaluation: Annotated[str, Field(description="its id")]
    dataset: str
    created_at: datetime
    clean_accuracy: Proportion | None = None
    lowest_accuracy: Annotated[Proportion | None, Field(description="of all conditions, robust where attacked")] = None
    lowest_under: Annotated[str | None, Field(description="the condition with the lowest accuracy")] = None
    grade: Annotated[Grade | None, Field(description="of trust in the numbers")] = None
    verdict: Annotated[str | None, Field(description="the grade, and for which attacks it holds")] = None
    classes: Annotated[
        tuple[ClassAccuracy, ...] | None,
        Field(description="on clean images, the best class first; only where one model is asked for"),
    ] = None


class Measurements:
    """Finds what was measured of models.

    Args:
        store: where the evaluations are.
        reports: counts them.
    """

    def __init__(self, store: Store, reports: Reports) -> None:
        self._store, self._reports = store, reports
        self._counted: dict[tuple[str, datetime], dict[str, ModelReport]] = {}
        self._lock = Lock()
        self._score_classes = lru_cache(COUNTED)(self._count_classes)
        self._calibrated = lru_cache(COUNTED)(self._calibrate)

    def latest(self, sha256: Mapping[str, str], owner: str | None) -> dict[str, Evaluation]:
        """Find the latest evaluation of each model that is done, among the last `LOOKED_AT`.

        Args:
            sha256: hash of what decides each model's answers, by its name: what was measured of another file does not count.
            owner: whose evaluations are looked at; None is everyone's.
        """
        found: dict[str, Evaluation] = {}
        for each in self._store.evaluations(limit=LOOKED_AT, owner=owner, ended=True):
            if isinstance(each, Evaluation) and each.status is Status.DONE:
                hashes = each.plan.model_sha256
                mine = [name for name in hashes if name not in found and sha256.get(name) == hashes[name]]
                found |= dict.fromkeys(mine, each)
        return found

    def of(self, model: str, evaluation: Evaluation, *, may_count: bool = True) -> Measured:
        """Read a model's numbers; without a grade if they would have to be counted, and may not be."""
        facts = Measured(
            evaluation=evaluation.id, dataset=evaluation.plan.spec.dataset, created_at=evaluation.created_at
        )
        key = evaluation.id, evaluation.created_at
        if key not in self._counted and not may_count:
            return facts
        report = self._reported(evaluation)[model]
        lowest = report.lowest
        return facts.model_copy(
            update={
                "clean_accuracy": report.clean_accuracy,
                "lowest_accuracy": lowest and lowest.score,
                "lowest_under": lowest and lowest.title,
                "grade": report.grade,
                "verdict": report.verdict,
            }
        )

    def by_class(self, model: str, evaluation: Evaluation, classes: tuple[str, ...]) -> tuple[ClassAccuracy, ...]:
        """Count a model's clean accuracy on each class with images, the best one first.

        Args:
            model: one of the evaluation's.
            evaluation: one that is done.
            classes: the model's.
        """
        every = self.class_scores(evaluation, model, 0, classes)
        found = [ClassAccuracy(name=each.name, clean_accuracy=each.clean_accuracy) for each in every]
        return (*sorted(found, key=lambda each: (-each.clean_accuracy.value, each.name)),)

    def class_scores(
        self, evaluation: Evaluation, model: str, condition: int, classes: tuple[str, ...]
    ) -> tuple[ClassResult, ...]:
        """Score each class with images so far, the lowest score first; `condition` is a position in the specification."""
        return self._score_classes(evaluation.id, evaluation.results_version, model, condition, classes)

    def calibration(self, evaluation: Evaluation, model: str, condition: int) -> Calibration | None:
        """Measure the confidences of a model under a condition over the images so far; None without any that is finite."""
        return self._calibrated(evaluation.id, evaluation.results_version, model, condition)

    def _reported(self, evaluation: Evaluation) -> dict[str, ModelReport]:
        key = evaluation.id, evaluation.created_at
        with self._lock:
            if key not in self._counted:
                report = self._reports.once(evaluation).without_pictures()
                self._counted[key] = {each.model: each for each in report.models}
                while len(self._counted) > COUNTED:
                    self._counted.pop(next(iter(self._counted)))
            return self._counted[key]

    def _count_classes(
        self, evaluation_id: str, _version: str, model: str, condition: int, classes: tuple[str, ...]
    ) -> tuple[ClassResult, ...]:
        evaluation = self._store.evaluation(evaluation_id)
        if evaluation is None:
            return ()
        plan = evaluation.plan
        names = logit_names(plan, model, classes)
        return (*score_classes(names, plan.spec.conditions[condition], self._rows(plan, model, condition)),)

    def _calibrate(self, evaluation_id: str, _version: str, model: str, condition: int) -> Calibration | None:
        evaluation = self._store.evaluation(evaluation_id)
        return calibrate(self._rows(evaluation.plan, model, condition)) if evaluation else None

    def _rows(self, plan: Plan, model: str, condition: int) -> Iterator[Row]:
        results = self._store.results(plan.id, plan.shards_of(model, condition)[0])
        return (row for each in counted(plan, results) for row in each.worst.rows)
