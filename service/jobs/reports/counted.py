"""Reports of stored evaluations, counted as their shards finish."""

from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from threading import Lock

from evaluation import Report
from evaluation.reports.counting import report_of
from evaluation.results.totals import Totals
from service.jobs.evaluations import Evaluation
from service.jobs.store import Store

COUNTED = 16
"""Evaluations whose totals stay in memory, those read last."""


@dataclass
class _Counted:
    """What was read of one evaluation."""

    totals: Totals | None = None
    finished: int = 0
    report: Report | None = None
    lock: Lock = field(default_factory=Lock)


def _new(_evaluation_id: str, _submitted_at: datetime) -> _Counted:
    return _Counted()


class Reports:
    """Gives reports; each read costs what has finished since the one before, and no rows are read.

    Args:
        store: where the evaluations are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counted = lru_cache(COUNTED)(_new)

    def once(self, evaluation: Evaluation) -> Report:
        """Count an evaluation whose report is looked at once: nothing of it stays in memory."""
        tallies, _ = self._store.finished_after(evaluation.id, 0)
        return report_of(Totals(evaluation.plan, tallies))

    def of(self, evaluation: Evaluation) -> Report:
        """Add up the finished shards of an evaluation."""
        counted = self._counted(evaluation.id, evaluation.created_at)
        with counted.lock:
            totals = counted.totals = counted.totals or Totals(evaluation.plan)
            new, counted.finished = self._store.finished_after(evaluation.id, counted.finished)
            if new or counted.report is None:
                totals.add(new)
                counted.report = report_of(totals)
            return counted.report
