"""How far an evaluation is, on standard error."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec

from withstand.answers import ProgressView

Show = Callable[[ProgressView], None]


@contextmanager
def progress_shown(*, wanted: bool) -> Generator[Show]:
    """Yield what shows progress: a bar in a terminal if rich is installed, else a line per change."""
    if not wanted:
        yield lambda progress: None
    elif sys.stderr.isatty() and find_spec("rich"):
        with _bar() as show:
            yield show
    else:
        yield _print_line


@contextmanager
def _bar() -> Generator[Show]:
    from rich.console import Console  # noqa: PLC0415  # it is optional
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("evaluating", total=None)

        def show(progress: ProgressView) -> None:
            bar.update(task, completed=progress["images_done"], total=progress["images_total"])

        yield show


def _print_line(progress: ProgressView) -> None:
    left = f", {progress['eta_s']:.0f} s left" if progress["eta_s"] else ""
    sys.stderr.write(f"{progress['images_done']} / {progress['images_total']} images{left}\n")
    sys.stderr.flush()
