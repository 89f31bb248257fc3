"""Reports, and models that are added, on a terminal."""

from datetime import timedelta

from rich.console import Console
from rich.table import Table

from evaluation import Estimate, Report
from evaluation.statistics import Proportion
from service.http.schemas import AddedModel, OpenQuestions

TABLE_COLUMNS = 130
"""Width to draw at where the output is not a terminal."""


def console(*, stderr: bool = False) -> Console:
    """Standard output or error, wide enough for a table when it goes to a file or a pipe."""
    out = Console(highlight=False, stderr=stderr)
    return out if out.is_terminal else Console(width=TABLE_COLUMNS, highlight=False, stderr=stderr)


def print_report(report: Report, out: Console) -> None:
    """Print the table, and what one must know to read it."""
    corner, columns, rows = report.table
    large = corner == "model"  # few cells, each of several lines
    table = Table(title="Accuracy in percent with 95 % interval and n", show_lines=large, title_justify="left")
    table.add_column(corner, overflow="fold")
    for name in columns:
        table.add_column(name, justify="center")
    for name, scores in rows:
        table.add_row(name, *(_cell(score, "\n" if large else " ") for score in scores))
    out.print(table)
    for fact in report.facts():
        out.print(f"- {fact}", markup=False)


def print_questions(asked: OpenQuestions, out: Console) -> None:
    """Print what a checkpoint does not tell, one row per question."""
    options = ", ".join(f"{name}={value}" for name, value in asked.card.options.items())
    title = f"{asked.card.architecture} {options}, {len(asked.card.classes)} classes; not told by the file:"
    table = Table(title=title, title_justify="left")
    table.add_column("field", no_wrap=True)
    for column in ("likely", "allowed", "why"):
        table.add_column(column)
    for each in asked.questions:
        table.add_row(each.field, str(each.likely), each.allowed, each.why)
    out.print(table, markup=False)


def describe_estimate(expected: Estimate) -> str:
    """Tell what an evaluation would cost, in a line."""
    return (
        f"{expected.images} rows, {expected.images_done} of them there already, {expected.passes} passes of an image, at most "
        f"{timedelta(seconds=round(expected.seconds))} (h:mm:ss) on this device, less where images fall early"
    )


def describe_added(added: AddedModel) -> str:
    """Tell what a model is that was added, a line a fact."""
    card, side = added.card, added.input_shape[1]
    macs = "" if added.macs is None else f", {added.macs / 1e9:.3f} G multiplications an image"
    pictures = card.preprocessing
    lines = [
        f"added {added.name}: {card.architecture} {card.options or ''}".rstrip(),
        f"  {added.parameters:,} parameters{macs}, images of {side} x {side}, {len(card.classes)} classes",
        f"  resize {pictures.resize} ({pictures.interpolation}), crop {pictures.crop}, mean {pictures.mean}, std {pictures.std}",
        *(f"  stored with it: {name} = {value}" for name, value in added.training_facts.items()),
        *(f"  assumed: {each.field} = {each.likely} ({each.why})" for each in added.assumed),
    ]
    return "\n".join(lines)


def _cell(score: Proportion | None, gap: str) -> str:
    if score is None:
        return "-"
    return f"[bold]{100 * score.value:.1f}[/bold]{gap}{100 * score.low:.1f}–{100 * score.high:.1f}{gap}n={score.n}"  # noqa: RUF001  an interval
