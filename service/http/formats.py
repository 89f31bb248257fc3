"""The forms in which a report can be read, over HTTP and from the command line."""

import json
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from evaluation import Report
from evaluation.reports import writers
from service.http.pages.sections import render_report

Rows = Callable[[], list[dict[str, Any]]]
"""Makes the rows of `writers.image_rows`, for the forms that have a row an image."""


class ReportFormat(StrEnum):
    """How a report is written."""

    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"
    LATEX = "latex"
    METHODS = "methods"
    MANIFEST = "manifest"
    CSV = "csv"
    PARQUET = "parquet"


MEDIA_TYPES = {
    ReportFormat.JSON: "application/json",
    ReportFormat.MARKDOWN: "text/markdown",
    ReportFormat.HTML: "text/html",
    ReportFormat.LATEX: "application/x-latex",
    ReportFormat.METHODS: "text/plain",
    ReportFormat.MANIFEST: "application/json",
    ReportFormat.CSV: "text/csv",
    ReportFormat.PARQUET: "application/vnd.apache.parquet",
}

SUFFIXES = {
    ".json": ReportFormat.JSON,
    ".md": ReportFormat.MARKDOWN,
    ".html": ReportFormat.HTML,
    ".tex": ReportFormat.LATEX,
    ".txt": ReportFormat.METHODS,
    ".csv": ReportFormat.CSV,
    ".parquet": ReportFormat.PARQUET,
}
"""Which form a file's name asks for."""

_WRITERS: dict[ReportFormat, Callable[[Report, Rows], str | bytes]] = {
    ReportFormat.JSON: lambda report, rows: report.model_dump_json(indent=2),
    ReportFormat.MARKDOWN: lambda report, rows: report.to_markdown(),
    ReportFormat.HTML: lambda report, rows: render_report(report),
    ReportFormat.LATEX: lambda report, rows: writers.to_latex(report),
    ReportFormat.METHODS: lambda report, rows: writers.methods(report) + "\n",
    ReportFormat.MANIFEST: lambda report, rows: json.dumps(writers.manifest(report), indent=2),
    ReportFormat.CSV: lambda report, rows: writers.to_csv(rows()),
    ReportFormat.PARQUET: lambda report, rows: writers.to_parquet(rows(), report),
}


def write(report: Report, form: ReportFormat, rows: Rows) -> bytes:
    """Write a report.

    Raises:
        FormatError: the form needs a library that is not installed.
    """
    written = _WRITERS[form](report, rows)
    return written if isinstance(written, bytes) else written.encode()
