"""Reports of stored evaluations, counted as their shards finish."""

import time
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from threading import Lock

from evaluation import Report
from evaluation.reports.counting import report_of
from evaluation.results.tally import Tally
from service.jobs.evaluations import Evaluation
from service.jobs.store import Store

REST = 2.0
"""While an evaluation runs, its report is given again for so many times the seconds that counting it took: many may ask at once."""

COUNTED = 16
"""Evaluations whose tallies stay in memory, those read last."""


@dataclass
class _Counted:
    """What was read of one evaluation."""

    tallies: list[Tally] = field(default_factory=list[Tally])
    finished: int = 0
    report: Report | None = None
    fresh_until: float = 0.0
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

    def of(self, evaluation: Evaluation) -> Report:
        """Add up the finished shards of an evaluation."""
        counted = self._counted(evaluation.id, evaluation.created_at)
        with counted.lock:
            if counted.report and not evaluation.status.final and time.monotonic() < counted.fresh_until:
                return counted.report
            new, counted.finished = self._store.finished_after(evaluation.id, counted.finished)
            if new or counted.report is None:
                began = time.monotonic()
                counted.tallies += new
                counted.report = report_of(evaluation.plan, counted.tallies)
                counted.fresh_until = time.monotonic() + REST * (time.monotonic() - began)
            return counted.report
