"""The tests of common, models, attacks and evaluation where there is a GPU: first the files that name cuda, then the others.

    python -m benchmarks.gpu.suite

Prints Markdown: for each of the two runs pytest's last line, and what it says of failures. Fails where a test fails.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch

TESTS = Path(__file__).parents[2] / "tests"
FOLDERS = ("common", "models", "attacks", "evaluation")
TOY = TESTS / "evaluation" / "test_statistics.py"
WORKERS = 12
INTERRUPTED = 2
"""Exit status of pytest."""
SUMMING_UP_S = 8.0
SHOWN = 12_000
"""Characters of pytest's output that are shown, the last ones."""


def runs() -> dict[str, list[Path]]:
    """The files of each run."""
    if not torch.cuda.is_available():
        return {"one file": [TOY]}
    files = [file for folder in FOLDERS for file in sorted((TESTS / folder).rglob("test_*.py"))]
    named = [file for file in files if "cuda" in file.read_text()]
    return {"files that name cuda": named, "all others": [file for file in files if file not in named]}


def command(files: Sequence[Path]) -> list[str]:
    """Call pytest, without the plugins that are not there."""
    made = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:randomly",
        "--tb=short",
        "-rfE",
        "--continue-on-collection-errors",
        "-m",
        "not slow",
    ]
    if find_spec("xdist"):
        made += ["-n", str(WORKERS if torch.cuda.is_available() else 0), "--dist", "worksteal"]
    if find_spec("pytest_timeout") is None:  # its settings are unknown then, which would be an error
        made += ["-o", "addopts=-q", "-W", "ignore::pytest.PytestConfigWarning"]
    return [*made, *map(str, files)]


def outcome(files: Sequence[Path]) -> tuple[int, str]:
    """Run pytest; its exit status and what it prints, also where all of it is interrupted."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command(files), stdout=log, stderr=subprocess.STDOUT)  # noqa: S603
        try:
            code = process.wait()
        except KeyboardInterrupt:  # it was interrupted too, and sums up
            code = INTERRUPTED
            with suppress(subprocess.TimeoutExpired):
                process.wait(SUMMING_UP_S)
        log.seek(0)
        return code, log.read().strip()


def main() -> None:
    """Run the tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", help="not needed: whoever calls ends it")
    parser.parse_args()
    codes: list[int] = []
    for name, files in runs().items():
        code, output = outcome(files)
        codes.append(code)
        print(f"{name[0].upper()}{name[1:]}: {output.splitlines()[-1]}\n", flush=True)
        if code:
            print(f"```text\n{output[-SHOWN:]}\n```\n", flush=True)
        if code == INTERRUPTED:
            break
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
