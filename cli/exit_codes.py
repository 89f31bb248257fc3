"""Exit statuses."""

import sys
from typing import NoReturn

import typer

BAD_REQUEST, FAILURE, INTERRUPTED = 2, 1, 130


def end(message: str, status: int) -> NoReturn:
    """Print one line on standard error and exit."""
    typer.echo(f"withstand: {message}", err=True)
    sys.exit(status)
