"""Fixtures that run the service."""

from tests.server import settings

__all__ = ["settings"]
