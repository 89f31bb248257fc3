"""The formats that HTTP and the command line offer: all that are registered, HTML among them."""

from enum import StrEnum

from evaluation import report_formats
from service.http.pages import html_format

__all__ = ["FORMATS", "SUFFIXES", "ReportFormat", "html_format"]

FORMATS = report_formats()
SUFFIXES = {form.suffix: form for form in FORMATS if form.suffix}
"""Which format a file's name asks for."""


class ReportFormat(StrEnum):
    """How a report is written."""

    _ignore_ = "form"
    for form in FORMATS:
        vars()[form.name.upper()] = form.name
