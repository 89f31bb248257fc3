"""A fixture that runs commands."""

from tests.command import run

__all__ = ["run"]
