"""Markdown: the table with what one must know to read it."""

from evaluation.reports.registry import Format, register_format
from evaluation.reports.report import Report, format_score


def to_markdown(report: Report) -> str:
    """Write the table, each cell with its 95 % interval, and the protocol below."""
    corner, columns, rows = report.table
    lines = [f"| {corner} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(map(format_score, scores))} |" for name, scores in rows]
    lines += ["", *(f"- {fact}" for fact in report.facts())]
    return "\n".join(lines) + "\n"


register_format(
    Format(
        name="markdown",
        media_type="text/markdown",
        suffix=".md",
        description="the table with its protocol",
        write=lambda report, rows: to_markdown(report),
    )
)
