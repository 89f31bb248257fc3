"""Reports on a terminal."""

from rich.console import Console
from rich.table import Table

from evaluation import Report
from evaluation.statistics import Proportion

TABLE_COLUMNS = 130
"""Width to draw at where the output is not a terminal."""


def console() -> Console:
    """Standard output, wide enough for a table when it goes to a file or a pipe."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(width=TABLE_COLUMNS, highlight=False)


def print_report(report: Report, out: Console) -> None:
    """Print the table, one row a model, and what one must know to read it."""
    table = Table(title="Accuracy in percent with 95 % interval and n", show_lines=True, title_justify="left")
    table.add_column("model", overflow="fold")
    for condition in report.plan.spec.conditions:
        table.add_column(condition.title, justify="center")
    for model in report.models:
        table.add_row(model.model, *(_cell(condition.score) for condition in model.conditions))
    out.print(table)
    for fact in report.facts():
        out.print(f"- {fact}", markup=False)


def _cell(score: Proportion | None) -> str:
    if score is None:
        return "-"
    return f"[bold]{100 * score.value:.1f}[/bold]\n{100 * score.low:.1f}–{100 * score.high:.1f}\nn={score.n}"  # noqa: RUF001  an interval
