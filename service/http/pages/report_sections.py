"""Reports of stored evaluations, rendered once for each state of their results."""

from collections import OrderedDict

from evaluation import Report
from service.http.pages.example_pictures import linked
from service.http.pages.sections import EVERY, Chosen, Section, Tab, of_tab
from service.jobs.evaluations import Evaluation
from service.jobs.reports.counted import Reports

TABS_RENDERED = 32
"""Tabs of reports whose rendered sections are cached."""


class ReportSections:
    """Makes the sections of reports, and caches those of the last few.

    Args:
        reports: where the reports are.
        root: the path prefix of the service.
    """

    def __init__(self, reports: Reports, root: str) -> None:
        self._reports, self._root = reports, root
        self._rendered: OrderedDict[tuple[str, Tab], tuple[Report, tuple[Section, ...]]] = OrderedDict()

    def of(self, evaluation: Evaluation, tab: Tab, chosen: Chosen = EVERY) -> tuple[Section, ...]:
        """Render a tab of a report, or find it as long as the report is the same; a choice of examples is rendered anew."""
        report, source = self._reports.of(evaluation), linked(f"{self._root}/evaluations/{evaluation.id}")
        if chosen != EVERY:
            return tuple(of_tab(report, tab, source, chosen))
        key = evaluation.id, tab
        known = self._rendered.get(key)
        if known is None or known[0] is not report:
            known = self._rendered[key] = report, tuple(of_tab(report, tab, source))
            if len(self._rendered) > TABS_RENDERED:
                self._rendered.popitem(last=False)
        return known[1]
