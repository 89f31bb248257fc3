"""Reports of stored evaluations, rendered once for each state of their results."""

from functools import lru_cache

from evaluation import merge
from service.http.pages.example_pictures import linked
from service.http.pages.sections import Section, of_report
from service.jobs.evaluations import Evaluation, ShardStatus
from service.jobs.store import Store

REPORTS_KEPT = 16
"""Reports whose rendered sections are cached."""


class ReportSections:
    """Makes the sections of reports, and keeps those of the last few.

    Args:
        store: where the evaluations are.
        root: the path prefix of the service.
    """

    def __init__(self, store: Store, root: str) -> None:
        self._store, self._root = store, root
        self._rendered = lru_cache(REPORTS_KEPT)(self._render)

    def of(self, evaluation: Evaluation) -> tuple[Section, ...]:
        """Render a report, or find it; finished shards stay finished, so their number tells one state from another."""
        return self._rendered(evaluation.id, evaluation.progress.shards.get(ShardStatus.DONE, 0))

    def _render(self, evaluation_id: str, _shards_done: int) -> tuple[Section, ...]:
        evaluation = self._store.evaluation(evaluation_id)
        if evaluation is None:
            return ()
        report = merge(evaluation.plan, self._store.results(evaluation_id))
        return tuple(of_report(report, linked(f"{self._root}/evaluations/{evaluation_id}")))
