"""A comparison of two models as a table that fits a terminal."""

from rich import box
from rich.console import Console
from rich.table import Table

from evaluation import Comparison

HEADINGS = ("condition", "n", "only first", "only second", "first - second", "95 % interval", "p", "p (Holm)")


def print_comparison(comparison: Comparison, out: Console) -> None:
    """Print under each condition how many images only one model gets right, and whether that could be chance."""
    out.print(f"first:  {comparison.first}\nsecond: {comparison.second}\n", soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "condition" else "right", overflow="fold")
    for each in comparison.conditions:
        table.add_row(
            each.title,
            str(each.n),
            str(each.only_first),
            str(each.only_second),
            f"{100 * each.difference:+.1f} %",
            f"{100 * each.low:+.1f} to {100 * each.high:+.1f}",
            f"{each.p:.2g}",
            f"{each.p_holm:.2g}",
        )
    out.print(table)
    out.print(
        "\nonly first, only second: images that one model alone gets right (robustly, under an attack). "
        "p: exact McNemar test; Holm: adjusted for the number of conditions.\n"
    )
