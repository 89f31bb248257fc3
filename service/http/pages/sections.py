"""Pages as sections: each has an id and the hash of its content, so that only those that changed are sent again."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup

from common import text_sha256
from evaluation import Report
from evaluation.reports.charts import charts
from service.http.pages.example_pictures import Source
from service.http.pages.templates import macro
from service.http.schemas import EvaluationView

HASH_DIGITS = 8
"""Hexadecimal digits of a section's hash."""


@dataclass(frozen=True)
class Section:
    """A part of a page; `id` is unique on it, `content` is HTML."""

    id: str
    content: Markup

    @cached_property
    def hash(self) -> str:
        """Changes with the section."""
        return text_sha256(f"{self.id} {self.content}")[:HASH_DIGITS]

    def __html__(self) -> str:
        """Write the element with which the page's script finds the section and compares it."""
        return f'<div id="{self.id}" data-hash="{self.hash}">\n{self.content}</div>\n'


def changed(sections: Sequence[Section], known: Collection[str]) -> str:
    """Write the sections whose hashes are not among the known ones."""
    return "".join(each.__html__() for each in sections if each.hash not in known)


def of_evaluation(evaluation: EvaluationView) -> Section:
    """Where an evaluation stands, on its own page."""
    return Section("progress", macro("parts.html", "progress", evaluation))


def of_report(report: Report, source: Source) -> Iterator[Section]:
    """Everything that a report shows; a section that has nothing to show yet is there, and empty."""

    def section(id: str, name: str, *values: object) -> Section:  # noqa: A002
        return Section(id, macro("parts.html", name, *values))

    yield section("table", "table", report)
    yield section("attacks", "attacks", report)
    yield section("charts", "charts", charts(report))
    yield section("trust", "trust")
    for position, model in enumerate(report.models):
        yield section(f"trust-{position}", "checks", model)
    yield section("examples", "examples", report)
    for position, model in enumerate(report.models):
        for index, condition in enumerate(model.conditions):
            id_ = f"examples-{position}-{index}"
            yield section(id_, "gallery", report, position, index, condition, source)
