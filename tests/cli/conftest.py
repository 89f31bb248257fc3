"""Fixtures that run commands and the service."""

from tests.command import here, run
from tests.server import fresh, http, server, settings

__all__ = ["fresh", "here", "http", "run", "server", "settings"]
