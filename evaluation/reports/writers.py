"""A report in the forms that people paste, load and gate on."""

import csv
import io
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any, NamedTuple
from xml.etree import ElementTree

import attacks
from common import canonical_json
from evaluation.compute.checks import Grade
from evaluation.compute.runner import ShardResult
from evaluation.plan import Plan
from evaluation.reports.counting import counted
from evaluation.reports.report import Report
from evaluation.spec import AttackChoice, Attacking, EvaluationSpec
from evaluation.statistics import Proportion


class FormatError(ValueError):
    """A form needs a library that is not installed."""


_LATEX = {"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "$": r"\$", "\\": r"\textbackslash{}"}


def to_latex(report: Report) -> str:
    """Write the table for a paper: percent with both sides of the 95 % interval, which differ."""
    corner, columns, rows = report.table
    lines = [
        r"\begin{tabular}{l" + "r" * len(columns) + "}",
        r"\toprule",
        " & ".join([corner, *map(_escaped, columns)]) + r" \\",
        r"\midrule",
        *(" & ".join([_escaped(name), *map(_latex_cell, scores)]) + r" \\" for name, scores in rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% {fact}" for fact in report.facts()),
    ]
    return "\n".join(lines) + "\n"


def _latex_cell(score: Proportion | None) -> str:
    if score is None:
        return "--"
    above, below = 100 * (score.high - score.value), 100 * (score.value - score.low)
    return rf"${100 * score.value:.1f}^{{+{above:.1f}}}_{{-{below:.1f}}}$"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def methods(report: Report) -> str:
    """Write the paragraph of a paper that says what was done: data, protocol, randomness, intervals, versions."""
    plan, spec = report.plan, report.plan.spec
    conditions = "; ".join(_described(condition) for condition in spec.conditions)
    searched = {
        "float32": "",
        "tf32": "Attacks searched with the inputs of products rounded to TF32",
        "bfloat16": "Attacks searched in bfloat16 on copies of the models",
    }[spec.precision]
    judged = ", and once more in float32 where an image still stood; whether it was flipped was decided in float32. "
    precision = searched + judged if searched else ""
    return (
        f"{'PARTIAL RESULT. ' if not report.complete else ''}"
        f"We evaluated {len(spec.models)} model{'s' * (len(spec.models) > 1)} on {plan.images} images of {spec.dataset} "
        f"(SHA-256 {plan.dataset_sha256[:12]}), drawn evenly from its {plan.classes} classes with seed {spec.selection_seed}, "
        f"under these conditions: {conditions}. {_skipped(len(plan.skipped))}Images lie in [0, 1]; eps is on that scale and "
        "normalisation is part of the model. "
        "Robust accuracy is the share of all images that are classified correctly and that no attack of the condition flips within "
        f"its budget, measured in the stated norm on float32 images. {precision}Random draws are seeded per image, so that results "
        "do not depend on batches. Intervals are 95 % Wilson score intervals. "
        f"Evaluation {plan.id}, computed with {', '.join(report.made_with) or 'versions unknown'}."
    )


def _described(condition: Any) -> str:
    if not isinstance(condition, Attacking):
        return condition.title
    settings = ", ".join(f"{choice.name} ({', '.join(_settings(choice))})" for choice in condition.attacks)
    return f"{condition.title}, with {settings}"


def _skipped(pictures: int) -> str:
    if not pictures:
        return ""
    return f"{pictures} broken picture{' was' if pictures == 1 else 's were'} skipped. "


def _settings(choice: AttackChoice) -> Iterable[str]:
    """Every parameter with its value; what is not given, by what its description says it then is."""
    meanings = next(each.parameters for each in attacks.describe() if each.name == choice.name)
    for name, value in choice.parameters.items():
        yield f"{name}={value}" if value is not None else f"{name} not given: {meanings[name]['description']}"
    yield f"restarts={choice.restarts}"


def manifest(report: Report) -> dict[str, Any]:
    """What an exact repetition needs: specification, hashes of models and data, versions."""
    plan = report.plan
    return {
        "evaluation": plan.id,
        "complete": report.complete,
        "spec": plan.spec.model_dump(mode="json"),
        "dataset_sha256": plan.dataset_sha256,
        "model_sha256": plan.model_sha256,
        "made_with": list(report.made_with),
    }


def image_rows(plan: Plan, results: Iterable[ShardResult], files: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """One row for each image that the report counts, model and condition, in the order of the specification.

    Args:
        plan: of the evaluation.
        results: its finished shards.
        files: paths of the data set's images by index, if they are to be named.
    """
    there = [*results]
    return [
        {
            "model": model,
            "condition": condition.title,
            "file": files[row.index] if files else None,
            **row.model_dump(),
        }
        for model in plan.spec.models
        for condition in plan.spec.conditions
        for result in counted(plan, model, condition, there)
        for row in result.rows
    ]


def to_csv(rows: list[dict[str, Any]]) -> str:
    """Write rows of `image_rows` with a line of names; what is None stays empty."""
    written = io.StringIO()
    writer = csv.DictWriter(written, fieldnames=list(rows[0]) if rows else ["model", "condition"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()


def to_parquet(rows: list[dict[str, Any]], report: Report) -> bytes:
    """Write rows of `image_rows` as a Parquet file, with the manifest in its metadata.

    Raises:
        FormatError: pyarrow is not installed.
    """
    try:
        pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise FormatError("Parquet files need pyarrow: uv pip install '.[parquet]'") from error
    table = pyarrow.Table.from_pylist(rows).replace_schema_metadata({"withstand": canonical_json(manifest(report))})
    written = io.BytesIO()
    parquet.write_table(table, written)
    return written.getvalue()


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


def below_bar(report: Report, bars: Sequence[Bar]) -> list[str]:
    """List, a sentence each, the scores that lie below a bar, and the models whose numbers cannot be trusted."""
    found: list[str] = []
    for model in report.models:
        for each in model.conditions:
            least = max((bar.least for bar in bars if bar.meets(each.title)), default=None)
            if least is not None and (each.score is None or each.score.value < least):
                value = "unknown" if each.score is None else f"{each.score.value:.4f} (n = {each.score.n})"
                found.append(f"{model.model}, {each.title}: {value}, at least {least:g} is asked for")
        if bars and model.grade in UNTRUSTED:
            reason = model.failed[0].message if model.failed else "not all checks are done"
            found.append(f"{model.model}: its numbers cannot be trusted ({model.grade}): {reason}")
    return found


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
