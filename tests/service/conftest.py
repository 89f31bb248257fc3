"""Fixtures that run commands and the service."""

from tests.command import here, run
from tests.server import fresh, http, server, settings
from tests.service.held import forwarded, held
from tests.spans import exporter

__all__ = ["exporter", "forwarded", "fresh", "held", "here", "http", "run", "server", "settings"]
