"""Fixtures that run commands and the service."""

from tests.command import here, run
from tests.server import database, fresh, http, server, settings

__all__ = ["database", "fresh", "here", "http", "run", "server", "settings"]
