"""Bars that scores must reach: a gate for a build server."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple
from xml.etree import ElementTree

from evaluation.compute.checks import Grade
from evaluation.reports.report import Report
from evaluation.spec import EvaluationSpec
from evaluation.statistics import Proportion


class Bar(NamedTuple):
    """The least score under the conditions whose titles fit a pattern, a fraction."""

    pattern: str
    least: float

    def meets(self, title: str) -> bool:
        """Whether it is about a condition; * stands for anything, and case does not matter."""
        return fnmatchcase(title.casefold(), self.pattern.casefold())


def parse_bar(text: str, spec: EvaluationSpec) -> Bar:
    """Read a bar such as "clean=0.9" or "pgd*=0.4".

    Raises:
        ValueError: it has another form, the value is no fraction, or no condition of the evaluation fits the pattern.
    """
    pattern, equals, value = text.rpartition("=")
    try:
        bar = Bar(pattern.strip(), float(value))
    except ValueError:
        bar = Bar(pattern.strip(), -1)
    if not equals or not bar.pattern or not 0 <= bar.least <= 1:
        raise ValueError(
            f"a bar is CONDITION=VALUE with a value from 0 to 1, such as clean=0.9 or 'pgd*=0.4', got {text!r}"
        )
    titles = [condition.title for condition in spec.conditions]
    if not any(map(bar.meets, titles)):
        raise ValueError(f"no condition fits {bar.pattern!r}; there are: {', '.join(titles)}")
    return bar


UNTRUSTED: frozenset[Grade] = frozenset({"invalid", "at chance", "unchecked"})
"""Grades with which no number passes a bar."""


def below_bar(report: Report, bars: Sequence[Bar], *, strict: bool = False) -> list[str]:
    """List the scores below a bar and the models whose numbers cannot be trusted, one sentence each.

    Args:
        report: what was found.
        bars: what is asked for.
        strict: ask it of the lower ends of the 95 % intervals, and that every grade is reliable.
    """
    found: list[str] = []
    for model in report.models:
        for each in model.conditions:
            least = max((bar.least for bar in bars if bar.meets(each.title)), default=None)
            if least is not None and not _reaches(each.score, least, strict=strict):
                value = "unknown" if each.score is None else _written(each.score, strict=strict)
                found.append(f"{model.model}, {each.title}: {value}, at least {least:g} is asked for")
        if bars and (model.grade in UNTRUSTED or (strict and model.grade != "reliable")):
            reason = model.failed[0].message if model.failed else "not all checks are done"
            found.append(f"{model.model}: its numbers cannot be trusted ({model.grade}): {reason}")
    return found


def _reaches(score: Proportion | None, least: float, *, strict: bool) -> bool:
    return score is not None and (score.low if strict else score.value) >= least


def _written(score: Proportion, *, strict: bool) -> str:
    interval = f", interval {score.low:.4f} to {score.high:.4f}" if strict else ""
    return f"{score.value:.4f} (n = {score.n}{interval})"


def to_junit(report: Report, failures: list[str]) -> str:
    """Write a JUnit file: a test case for each model and condition, failed where `failures` of `below_bar` names it."""
    suite = ElementTree.Element("testsuite", name=f"withstand {report.plan.id}")
    count = 0
    for model in report.models:
        for title, seconds in [*((each.title, each.seconds) for each in model.conditions), ("trust", 0.0)]:
            name = model.model if title == "trust" else f"{model.model}, {title}"
            case = ElementTree.SubElement(suite, "testcase", classname=model.model, name=title, time=f"{seconds:.3f}")
            for failure in failures:
                if failure.startswith(f"{name}: "):
                    ElementTree.SubElement(case, "failure", message=failure)
                    count += 1
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(count))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
