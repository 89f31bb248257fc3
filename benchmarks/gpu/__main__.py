"""Everything on a GPU, in at most eight minutes: tests, attacks, an evaluation, predictions, SAN's kernels.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --stages attacks san --out /tmp/page

Prints one Markdown page and writes it to a file, again after every stage. A stage that fails, crashes or takes too long is reported
in its place and does not end the others; one whose packages are missing is left out. Needs nothing of the project to be installed.
Without a GPU the same stages run at toy size on the CPU, which tests this script and measures nothing.
"""

import argparse
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.gpu.stages import Outcome, Stage, run, surroundings
from benchmarks.pgd import hardware, table

RESULTS = Path(__file__).parents[1] / "results"
SERVER = ("fastapi", "uvicorn", "sqlalchemy", "pydantic_settings", "python_multipart", "typer", "pebble", "jinja2")
PACKAGES = ("triton", "numpy", "torchvision", "torchattacks", "pillow", "simplejpeg")

STAGES = (
    Stage("suite", "Tests", "benchmarks.gpu.suite", 90, ("pytest",)),
    Stage("attacks", "PGD-10 on Linf 8/255", "benchmarks.gpu.attacks", 160, ("torchattacks",)),
    Stage("evaluation", "A whole evaluation from JPEGs", "benchmarks.gpu.evaluation", 50, ("simplejpeg",)),
    Stage("predictions", "Predictions over HTTP", "benchmarks.gpu.predictions", 45, SERVER),
    Stage("san", "SAN's attention", "benchmarks.gpu.san", 75),
)
"""Their limits, with what ending a stage may take, add up to eight minutes."""


def installed(name: str) -> str:
    """Version of a distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def printed(*command: str) -> str | None:
    """What a command prints, in one line; None if it is not there or fails."""
    if shutil.which(command[0]) is None:
        return None
    answer = subprocess.run(command, capture_output=True, text=True, cwd=RESULTS, check=False)  # noqa: S603
    return None if answer.returncode else " ".join(answer.stdout.split())


def facts(device: torch.device) -> str:
    """Hardware, versions, commit and day."""
    driver = printed("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "unknown"
    gpu = [f"CUDA {torch.version.cuda}", f"driver {driver}"] if device.type == "cuda" else ["no GPU: toy sizes"]
    commit = printed("git", "describe", "--always", "--dirty") or "unknown"
    versions = [f"torch {torch.__version__}", *gpu, f"Python {platform.python_version()}"]
    versions += [f"{name} {installed(name)}" for name in PACKAGES]
    return f"{hardware(device)}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit}.\n{', '.join(versions)}."


def page(title: str, about: str, outcomes: Sequence[Outcome]) -> str:
    """Write what is known so far."""
    rows = [(each.stage.name, each.status, f"{each.seconds:.0f}") for each in outcomes]
    summary = table(("stage", "outcome", "seconds"), rows).strip()
    return "\n\n".join([f"# {title}", about, summary, *(each.section for each in outcomes)]) + "\n"


def progress(stages: Sequence[Stage], scale: float) -> Generator[list[Outcome]]:
    """Run stages, with `scale` times their limits; after each, what became of all so far."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        environment = surroundings(Path(name))
        for stage in stages:
            outcomes.append(run(stage, scale * stage.seconds, Path(name), environment))
            yield outcomes


def read_flags() -> argparse.Namespace:
    """Read the command line."""
    names = [each.name for each in STAGES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--stages", type=lambda text: text.split(","), default=names, help=f"with commas (default {','.join(names)})"
    )
    parser.add_argument(
        "--out", type=Path, help="folder of the page (default benchmarks/results, without a GPU a temporary one)"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="times the limit of every stage (default 1)")
    flags = parser.parse_args()
    if unknown := set(flags.stages) - set(names):
        parser.error(f"there is no stage {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return flags


def main() -> None:
    """Run the stages, write and print the page."""
    flags = read_flags()
    for each in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # where they are ignored, as in the background, stages would ignore them too
        signal.signal(each, signal.default_int_handler)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    title = torch.cuda.get_device_name() if device.type == "cuda" else "toy on a CPU"
    out = flags.out or (RESULTS if device.type == "cuda" else Path(tempfile.mkdtemp()))
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"gpu_{re.sub(r'[^a-z0-9]+', '_', title.lower())}.md"
    about, chosen = facts(device), [each for each in STAGES if each.name in flags.stages]
    for outcomes in progress(chosen, flags.seconds):
        file.write_text(page(title, about, outcomes))
        print(f"{outcomes[-1].stage.name}: {outcomes[-1].status}, {outcomes[-1].seconds:.0f} s", file=sys.stderr)
    print(file.read_text())
    print(f"written to {file}", file=sys.stderr)


if __name__ == "__main__":
    main()
