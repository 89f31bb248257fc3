"""How the log of the service is written: as text, or as JSON with one object on each line."""

import logging.config
from typing import Any, Literal

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from service.tracing import trace_id

LogFormat = Literal["text", "json"]

FIELDS = {"levelname": "level", "name": "logger", "message": "message", "exc_info": "exception"}
"""Attributes of a record, and how they are called in the log; what a call gives as `extra` follows under its own name."""

PACKAGES = ("service", "evaluation", "attacks", "models", "uvicorn")
"""Whose progress is logged; others only warn."""


class JsonLines(JsonFormatter):
    """Writes a record as one line of JSON, with the trace that the work at hand belongs to."""

    def __init__(self) -> None:
        reserved = [*RESERVED_ATTRS, "color_message"]  # uvicorn's message again, with colours
        super().__init__(
            ["levelname", "name", "message"], rename_fields=FIELDS, timestamp="time", reserved_attrs=reserved
        )

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Add the trace, unless the record names one."""
        super().add_fields(log_data, record, message_dict)
        if "trace_id" not in log_data and (found := trace_id()) is not None:
            log_data["trace_id"] = found


JSON: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonLines}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "loggers": {name: {"level": "INFO"} for name in PACKAGES},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
"""What `logging.config` takes."""


def write_log_as(form: LogFormat) -> None:
    """Write the log of this process in a format; text is what Python and uvicorn write by themselves."""
    if form == "json":
        logging.config.dictConfig(JSON)
