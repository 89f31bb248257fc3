"""Reports of stored evaluations, rendered once for each state of their results."""

from collections import OrderedDict

from evaluation import Report
from service.http.pages.example_pictures import linked
from service.http.pages.sections import Section, of_report
from service.jobs.evaluations import Evaluation
from service.jobs.reports import Reports

REPORTS_RENDERED = 16
"""Reports whose rendered sections are cached."""


class ReportSections:
    """Makes the sections of reports, and caches those of the last few.

    Args:
        reports: where the reports are.
        root: the path prefix of the service.
    """

    def __init__(self, reports: Reports, root: str) -> None:
        self._reports, self._root = reports, root
        self._rendered: OrderedDict[str, tuple[Report, tuple[Section, ...]]] = OrderedDict()

    def of(self, evaluation: Evaluation) -> tuple[Section, ...]:
        """Render a report, or find it as long as it is the same."""
        report = self._reports.of(evaluation)
        known = self._rendered.get(evaluation.id)
        if known is None or known[0] is not report:
            known = report, tuple(of_report(report, linked(f"{self._root}/evaluations/{evaluation.id}")))
            self._rendered[evaluation.id] = known
            if len(self._rendered) > REPORTS_RENDERED:
                self._rendered.popitem(last=False)
        return known[1]
