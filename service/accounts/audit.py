"""Who changed what: each change is one line of JSON on the logger `withstand.audit`. It has neither bodies nor keys."""

import json
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import NamedTuple

from service.logs import LogFormat

LOGGER = "withstand.audit"

_log = logging.getLogger(LOGGER)


class Change(NamedTuple):
    """A change, or the attempt at one: the name of the key, its scope, from where; the request; what was changed; how it ended."""

    key: str
    scope: str
    address: str
    method: str
    route: str
    target: str
    status: int


class AuditLines(logging.Formatter):
    """Writes a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the time and the change."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": time} | {name: getattr(record, name) for name in Change._fields})


class AuditFile(WatchedFileHandler):
    """Appends to a file that only its owner can read; one that was moved or removed is made anew.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self.setFormatter(AuditLines())

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=_private)  # it has no opener


def record(change: Change) -> None:
    """Write a change down."""
    _log.info("%s %s", change.method, change.target, extra=change._asdict())


@contextmanager
def auditing(file: Path | None, form: LogFormat) -> Generator[None]:
    """Write changes into a file until the block ends; without one into the log, if that has a server's messages.

    Args:
        file: which gets these lines alone.
        form: of the log.

    Raises:
        OSError: the file cannot be written.
    """
    handler = _handler(file, form)
    _log.setLevel(logging.INFO if file else logging.getLogger("uvicorn.error").getEffectiveLevel())
    _log.propagate = handler is None
    if handler is None:
        yield
        return
    _log.addHandler(handler)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        handler.close()


def _handler(file: Path | None, form: LogFormat) -> logging.Handler | None:
    if file is not None:
        return AuditFile(file)
    if form == "json":  # the handler of all other lines writes them too
        return None
    handler = logging.StreamHandler()
    handler.setFormatter(AuditLines())
    return handler


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
