"""Fixtures that run the service."""

from tests.server import fresh, settings

__all__ = ["fresh", "settings"]
