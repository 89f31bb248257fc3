"""A stage: a module run in a process of its own that prints Markdown, and what became of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tomllib import loads

ERROR_LINES = 15
GRACE_S = 10.0
"""How long a stage that is interrupted may take to end what it has started."""


@dataclass(frozen=True)
class Stage:
    """One part of the page.

    Attributes:
        name: what `--stages` takes.
        title: its heading.
        module: is run with `--seconds`, its time limit, and prints Markdown as it becomes ready.
        seconds: time limit.
        needs: packages without which it is left out, by the names under which they are imported.
    """

    name: str
    title: str
    module: str
    seconds: float
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """Packages that it needs and that are not installed."""
        return [each for each in self.needs if find_spec(each) is None]


@dataclass(frozen=True)
class Outcome:
    """What a stage printed, how it ended, and how long it took; `trouble` is empty where it ended well."""

    stage: Stage
    status: str
    seconds: float = 0.0
    printed: str = ""
    trouble: str = ""

    @property
    def section(self) -> str:
        """Its part of the page, Markdown."""
        parts = [f"## {self.stage.title}", self.printed.strip()]
        if self.status != "done":
            parts.append(f"**{self.status[0].upper()}{self.status[1:]}.**")
        if self.trouble:
            parts.append(f"```text\n{self.trouble}\n```")
        return "\n\n".join(part for part in parts if part)


def run(stage: Stage, seconds: float, folder: Path, environment: Mapping[str, str]) -> Outcome:
    """Run a stage; its failure is part of what is returned.

    Args:
        stage: what to run.
        seconds: its time limit.
        folder: takes what it prints while it runs.
        environment: of the process.
    """
    if stage.missing:
        return Outcome(stage, f"left out, not installed: {', '.join(stage.missing)}")
    output, errors = folder / f"{stage.name}.md", folder / f"{stage.name}.err"
    command = [sys.executable, "-m", stage.module, "--seconds", f"{seconds:g}"]
    start = time.monotonic()
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, start_new_session=True)  # noqa: S603
        status = _status(process, seconds)
    lines = errors.read_text(errors="replace").strip().splitlines()
    trouble = "" if status == "done" else "\n".join(lines[-ERROR_LINES:])
    return Outcome(stage, status, time.monotonic() - start, output.read_text(errors="replace"), trouble)


def _status(process: subprocess.Popen[bytes], seconds: float) -> str:
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"ended at its limit of {seconds:.0f} s"
    finally:
        _end(process)
    return "done" if code == 0 else f"failed, exit status {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a stage that runs, so that it can end what it has started, then kill what is left of its session."""
    try:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def surroundings(folder: Path) -> dict[str, str]:
    """Environment of the stages: the repository on the path, and the project's version known where it is not installed."""
    repository = Path(__file__).parents[2]
    paths = [str(repository), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        version("withstand")
    except PackageNotFoundError:
        project = loads((repository / "pyproject.toml").read_text())["project"]
        facts = folder / f"withstand-{project['version']}.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: withstand\nVersion: {project['version']}\n")
        paths.append(str(folder))
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE"}
