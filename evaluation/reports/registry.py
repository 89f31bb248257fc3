"""Formats of a report, by name and by the ending of a file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common import Registry
from evaluation.reports.report import Report

Rows = Callable[[], list[dict[str, Any]]]
"""Makes the rows of `image_rows`, for formats that have one row per image."""


class FormatError(ValueError):
    """A format needs a library that is not installed."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to write a report.

    Attributes:
        name: as people ask for it, such as "latex".
        media_type: of an HTTP answer.
        description: what it holds, in Markdown, for the documentation and OpenAPI.
        write: makes the text or bytes of a file; raises FormatError.
        suffix: of a file's name that asks for the format, such as ".tex"; None if no name does.
        compressed: whether what it writes is compressed already.
    """

    name: str
    media_type: str
    description: str
    write: Callable[[Report, Rows], str | bytes]
    suffix: str | None = None
    compressed: bool = False

    def to_bytes(self, report: Report, rows: Rows) -> bytes:
        """Write a report; text becomes UTF-8.

        Raises:
            FormatError: the format needs a library that is not installed.
        """
        written = self.write(report, rows)
        return written if isinstance(written, bytes) else written.encode()


_FORMATS = Registry[Format]("report format")


def register_format(form: Format) -> None:
    """Make a format known.

    Raises:
        ValueError: its name or suffix is taken.
    """
    for other in report_formats():
        if form.suffix and form.suffix == other.suffix and form.name != other.name:
            raise ValueError(f"report formats {other.name!r} and {form.name!r} have the same suffix {form.suffix!r}")
    _FORMATS.add(form.name, form)


def report_format(name: str) -> Format:
    """Look up a format.

    Raises:
        UnknownNameError: there is none of that name.
    """
    return _FORMATS[name]


def report_formats() -> list[Format]:
    """List the formats, sorted by name."""
    return [_FORMATS[name] for name in sorted(_FORMATS.names())]
