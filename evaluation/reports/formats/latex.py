"""LaTeX: the table for a paper."""

from evaluation.reports.registry import Format, register_format
from evaluation.reports.report import Report
from evaluation.statistics import Proportion

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


register_format(
    Format(
        name="latex",
        media_type="application/x-latex",
        suffix=".tex",
        description="the table for a paper",
        write=lambda report, rows: to_latex(report),
    )
)
