"""Reports, estimates and added models as text for a terminal."""

import shutil
from datetime import timedelta

from rich.console import Console

from cli.score_table import Column, score_tables, shared_part
from evaluation import Estimate, Report
from evaluation.statistics import Proportion
from service.http.schemas import AddedModel, OpenQuestions


def console(*, stderr: bool = False) -> Console:
    """Standard output or error, as wide as the terminal; COLUMNS or 80 characters wide if it is none."""
    out = Console(highlight=False, markup=False, emoji=False, stderr=stderr)
    if not out.is_terminal:
        out.width = shutil.get_terminal_size().columns
    return out


def print_report(report: Report, out: Console, *, intervals: bool) -> None:
    """Print the scores, and the facts needed to read them.

    Args:
        report: of an evaluation, finished or not.
        out: where to print; no line is wider.
        intervals: whether each score has its 95 % interval.
    """
    scores = [[each.score for each in model.conditions] for model in report.models]
    ns = {score.n for row in scores for score in row if score}
    cells = [[_cell(score, intervals=intervals, with_n=len(ns) > 1) for score in row] for row in scores]
    names, titles = [model.model for model in report.models], [each.title for each in report.models[0].conditions]
    shared = shared_part(names)
    names = [name.replace(shared, "", 1) for name in names]
    by_model = [Column("model", names), *map(Column, titles, zip(*cells, strict=True))]
    by_condition = [Column("condition", titles), *map(Column, names, cells)]
    n = f", n = {ns.pop()} images" if len(ns) == 1 else ""
    out.print(f"Accuracy in percent{n}" + ("" if intervals else "; --intervals adds the 95 % intervals"))
    if shared:
        out.print(f"Model names are printed without {shared}")
    out.print()
    for table in score_tables(by_model, by_condition, out.width):
        out.print(table)
        out.print()
    for fact in report.facts():
        out.print(f"- {fact}")


def describe_questions(asked: OpenQuestions) -> str:
    """Describe what a checkpoint does not say, three lines per question."""
    options = ", ".join(f"{name}={value}" for name, value in asked.card.options.items())
    lines = [f"{asked.card.architecture} {options}, {len(asked.card.classes)} classes. The file does not say:"]
    for each in asked.questions:
        lines += [
            f"  {each.field}",
            f"    likely: {each.likely}; allowed: {each.allowed}",
            f"    why asked: {each.why}",
        ]
    return "\n".join(lines)


def describe_estimate(expected: Estimate) -> str:
    """Describe in one line what an evaluation would cost."""
    return (
        f"{expected.images} rows ({expected.images_done} already computed), {expected.passes} passes of one image through a model, "
        f"at most {timedelta(seconds=round(expected.seconds))} (h:mm:ss) on this device; less if images are flipped early"
    )


def describe_added(added: AddedModel) -> str:
    """Describe an added model, one line per fact."""
    card, side = added.card, added.input_shape[1]
    macs = "" if added.macs is None else f", {added.macs / 1e9:.3f} G multiplications per image"
    pictures = card.preprocessing
    lines = [
        f"added {added.name}: {card.architecture} {card.options or ''}".rstrip(),
        f"  {added.parameters:,} parameters{macs}, images of {side} x {side}, {len(card.classes)} classes",
        f"  resize {pictures.resize} ({pictures.interpolation}), crop {pictures.crop}, mean {pictures.mean}, std {pictures.std}",
        *(f"  found in the file: {name} = {value}" for name, value in added.training_facts.items()),
        *(f"  assumed: {each.field} = {each.likely} ({each.why})" for each in added.assumed),
    ]
    return "\n".join(lines)


def describe_claim(report: Report) -> str:
    """Describe what came of a claim about one model, with what one must know to compare it with others."""
    (model,) = report.models
    title = f"{model.model} on {report.plan.spec.dataset}, {model.conditions[0].title}"
    if model.claim is None:
        return f"{title}: nothing can be said, for there is no score"
    lines = [f"{title}: {model.claim.summary}", *(f"- {each}" for each in model.claim.differences)]
    return "\n".join([*lines, f"- trust: {model.verdict}; evaluation {report.plan.id}"])


def _cell(score: Proportion | None, *, intervals: bool, with_n: bool) -> str:
    if score is None:
        return "-"
    interval = f" [{100 * score.low:.1f}, {100 * score.high:.1f}]" if intervals else ""
    return f"{100 * score.value:.1f}{interval}" + (f" (n={score.n})" if with_n else "")
