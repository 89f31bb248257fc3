"""How far an evaluation is, on standard error."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def images_progress() -> Generator[Callable[..., None]]:
    """Show a bar on standard error, if that is a terminal; yields what updates it."""
    images = (BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn())
    err = Console(stderr=True)
    described = TextColumn("{task.description}")
    with Progress(described, *images, console=err, transient=True, disable=not err.is_terminal) as progress:
        yield partial(progress.update, progress.add_task("evaluating", total=None))
