"""CSV: one row per image."""

import csv
import io
from typing import Any

from evaluation.reports.registry import Format, register_format

FORMULA = ("=", "+", "-", "@", "\t")
"""How a cell begins that a spreadsheet would compute."""


def to_csv(rows: list[dict[str, Any]]) -> str:
    """Write rows of `image_rows` with a line of names; what is None stays empty.

    A text that a spreadsheet would compute, such as the name of a file, begins with an apostrophe: it comes from outside.
    """
    written = io.StringIO()
    writer = csv.DictWriter(written, fieldnames=list(rows[0]) if rows else ["model", "condition"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return written.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.replace("\r", "\\r")  # which would begin a row, for it is not quoted
    return f"'{text}" if text.startswith(FORMULA) else text


register_format(
    Format(
        name="csv",
        media_type="text/csv",
        suffix=".csv",
        description="one row per image, model and condition",
        write=lambda report, rows: to_csv(rows()),
    )
)
