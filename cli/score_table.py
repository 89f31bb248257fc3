"""The scores of a report as tables that fit a terminal."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from rich import box
from rich.cells import cell_len
from rich.table import Table

GAP = 2
"""Blanks between two columns."""

MOST_LINES = 3
"""Lines that a heading or the name of a row may be wrapped to."""


@dataclass(frozen=True)
class Column:
    """A heading, and a cell for each row."""

    heading: str
    cells: Sequence[str]


def score_tables(by_model: Sequence[Column], by_condition: Sequence[Column], width: int) -> list[Table]:
    """Lay out scores: one row per model if one table can hold that, else one row per condition, else several tables.

    Args:
        by_model: the models' names, then a column for each condition.
        by_condition: the conditions' titles, then a column for each model, with the same scores.
        width: of the terminal, in characters.
    """
    of_models = _fold(by_model, width)
    if len(of_models) == 1:
        return of_models
    of_conditions = _fold(by_condition, width)
    return of_conditions if len(of_conditions) == 1 else of_models


def shared_part(names: Sequence[str]) -> str:
    """Find what follows the first dot of every name, such as ".cifar10" in a.cifar10 and b.cifar10_pgd.

    Empty if there is one name only, or if names would be equal without it.
    """
    words = [name.partition(".")[2].split("_") for name in names]
    shared = "_".join(each[0] for each in takewhile(lambda each: len({*each}) == 1, zip(*words, strict=False)))
    part = f".{shared}" if shared and len(names) > 1 else ""
    return part if len({name.replace(part, "", 1) for name in names}) == len(names) else ""


def _fold(columns: Sequence[Column], width: int) -> list[Table]:
    """Repeat the first column in as many tables as the others need."""
    first, *others = columns
    widths = [max(_least_width([each.heading]), *map(cell_len, each.cells)) for each in others]
    least = _least_width([first.heading, *first.cells])
    if least + GAP + max(widths) > width:
        least = width // 2
    room = width - least
    tables: list[list[tuple[Column, int]]] = [[]]
    for column, wanted in zip(others, widths, strict=True):
        if tables[-1] and sum(GAP + each for _, each in tables[-1]) + GAP + wanted > room:
            tables.append([])
        tables[-1].append((column, min(wanted, room - GAP)))
    return [_table(first, each, width) for each in tables]


def _table(first: Column, others: Sequence[tuple[Column, int]], width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    room = width - sum(GAP + each for _, each in others)
    table.add_column(first.heading, width=min(_longest([first.heading, *first.cells]), room), overflow="fold")
    for column, each in others:
        table.add_column(column.heading, width=each, justify="right", overflow="fold")
    for row in zip(first.cells, *(column.cells for column, _ in others), strict=True):
        table.add_row(*row)
    return table


def _least_width(texts: Iterable[str]) -> int:
    """The least width in which no text takes more than `MOST_LINES`, and no word is broken."""
    return max(map(_width_of, texts))


def _width_of(text: str) -> int:
    width = _longest(text.split() or [""])
    while len(textwrap.wrap(text, max(width, 1), break_on_hyphens=False)) > MOST_LINES:
        width += 1
    return width


def _longest(texts: Iterable[str]) -> int:
    return max(map(cell_len, texts))
