"""CSV: one row per image."""

import csv
import io
from typing import Any

from evaluation.reports.registry import Format, register_format


def to_csv(rows: list[dict[str, Any]]) -> str:
    """Write rows of `image_rows` with a line of names; what is None stays empty."""
    written = io.StringIO()
    writer = csv.DictWriter(written, fieldnames=list(rows[0]) if rows else ["model", "condition"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()


register_format(
    Format(
        name="csv",
        media_type="text/csv",
        suffix=".csv",
        description="one row per image, model and condition",
        write=lambda report, rows: to_csv(rows()),
    )
)
