"""Pages as sections: each has an id and the hash of its content, so that only those that changed are sent again."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from markupsafe import Markup

from common import text_sha256
from evaluation import Report
from evaluation.compute.examples import Example
from evaluation.reports.charts import charts
from evaluation.reports.formats.manifest import manifest
from evaluation.reports.formats.methods import methods
from service.http.pages.example_pictures import Source
from service.http.pages.templates import macro
from service.http.schemas import CalibrationView, ClassResults, EvaluationView

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


class Tab(StrEnum):
    """What the page of an evaluation shows at a time."""

    TABLE = "table"
    CURVES = "curves"
    CLASSES = "classes"
    CALIBRATION = "calibration"
    IMAGES = "images"
    TRUST = "trust"
    METHODS = "methods"


class Chosen(NamedTuple):
    """Which examples are shown: those of one model, and with these classes and at least this confidence after the change."""

    model: str | None = None
    label: str | None = None
    prediction: str | None = None
    confidence: float = 0.0

    def has(self, example: Example) -> bool:
        """Whether an example is one of them."""
        classes = self.label in {None, example.label} and self.prediction in {None, example.prediction}
        return classes and example.confidence >= self.confidence


EVERY = Chosen()


def of_classes(scores: ClassResults, link: str) -> Section:
    """How a model does on each class under a condition; the link leads to the same as JSON."""
    return Section("classes", macro("class_parts.html", "classes", scores, link))


def of_calibration(view: CalibrationView, link: str) -> Section:
    """How far the confidences of a model can be trusted under a condition; the link leads to the same as JSON."""
    return Section("calibration", macro("calibration_parts.html", "calibration", view, link))


def of_report(report: Report, source: Source) -> Iterator[Section]:
    """Everything that a report shows."""
    for tab in Tab:
        yield from of_tab(report, tab, source)


def of_tab(report: Report, tab: Tab, source: Source, chosen: Chosen = EVERY) -> Iterator[Section]:
    """What a report shows on one tab; a section that has nothing to show yet is there, and empty."""

    def section(key: str, name: str, *values: object) -> Section:
        return Section(key, macro("report_parts.html", name, *values))

    match tab:
        case Tab.TABLE:
            yield section("table", "table", report)
            yield section("attacks", "attacks", report)
        case Tab.CURVES:
            yield section("scores", "scores", report)
            yield section("charts", "charts", charts(report))
        case Tab.CLASSES | Tab.CALIBRATION:
            return  # they are counted from rows, which a report does not have
        case Tab.IMAGES:
            yield section("examples", "examples", report)
            for position, model in enumerate(report.models):
                if chosen.model in {None, model.model}:
                    for index, condition in enumerate(model.conditions):
                        shown = [each for each in condition.examples if chosen.has(each)]
                        name = f"examples-{position}-{index}"
                        yield section(name, "gallery", report, position, index, condition.title, shown, source)
        case Tab.TRUST:
            yield section("trust", "trust")
            for position, model in enumerate(report.models):
                yield section(f"trust-{position}", "checks", model)
        case Tab.METHODS:
            yield section("methods", "methods", methods(report), manifest(report))
