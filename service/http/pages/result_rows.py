"""Evaluations that have ended as rows of a table, each counted and rendered once."""

import time
from collections.abc import Iterable
from typing import NamedTuple

from markupsafe import Markup

from evaluation.reports.report import ModelReport
from service.http.pages.templates import macro
from service.http.schemas import EvaluationView
from service.jobs.evaluations import Evaluation
from service.jobs.reports.counted import Reports

ROWS_KEPT = 1000
"""Evaluations whose rows are cached, some 2 KB each."""

COUNTING_S = 0.4
"""How long a page counts results that nobody has looked at yet, seconds; the rest is counted for its updates."""

MODELS_SHOWN = 3
"""Models of an evaluation that have a row: those with the highest scores."""


class _Rendered(NamedTuple):
    version: str
    row: Markup


class ResultRows:
    """Makes the rows, and caches those of the last few.

    Args:
        reports: where the reports are.
        root: the path prefix of the service.
    """

    def __init__(self, reports: Reports, root: str) -> None:
        self._reports, self._root = reports, root
        self._rendered: dict[str, _Rendered] = {}

    def of(self, evaluations: Iterable[Evaluation]) -> list[Markup]:
        """Render evaluations, or find their rows as long as they are the same; a row may say that it is yet to be counted."""
        until = time.monotonic() + COUNTING_S
        return [self._row(each, until) for each in evaluations]

    def _row(self, evaluation: Evaluation, until: float) -> Markup:
        version = f"{evaluation.status} {evaluation.label} {evaluation.results_version}"
        known = self._rendered.get(evaluation.id)
        if known is not None and known.version == version:
            return known.row
        view = EvaluationView.of(evaluation, root=self._root)
        if time.monotonic() > until:
            return macro("start.html", "uncounted", view)
        models = sorted(self._reports.once(evaluation).models, key=_lowest, reverse=True)
        row = macro("start.html", "result", view, models[:MODELS_SHOWN], max(0, len(models) - MODELS_SHOWN))
        self._rendered[evaluation.id] = _Rendered(version, row)
        while len(self._rendered) > ROWS_KEPT:
            self._rendered.pop(next(iter(self._rendered)), None)
        return row


def _lowest(model: ModelReport) -> float:
    return model.lowest.score.value if model.lowest and model.lowest.score else -1.0
