"""How long a server's Python holds the interpreter lock, and where: one process can answer no more than the lock lets it.

py-spy (`pip install py-spy`) looks at a server under load 400 times a second, and counts the stack that holds the lock. It does not
stop the server for that, which would change what is measured: a stack that changes meanwhile may be unreadable.
"""

import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.pgd import table
from benchmarks.serving.bench import Bench
from benchmarks.serving.contenders import Running
from benchmarks.serving.load import Sample

RATE = 400
"""Looks a second."""

PY_SPY = shutil.which("py-spy")

_PARTS: Sequence[tuple[str, Sequence[str]]] = (
    ("decode", ("Item.decode ",)),
    ("batch", ("Predictor._answer ",)),
    ("answer", ("hand_over.", "name_classes ", "model_dump_json", "server_timing ")),
    ("queue", ("Scheduler.predict ", "Predictor.")),
)
"""Of a stack the first part one of whose functions is in it; what is in none is HTTP."""


def part_of(stack: str) -> str:
    """Tell what a stack, functions joined by ";", works for."""
    return next((part for part, functions in _PARTS if any(each in stack for each in functions)), "HTTP")


def shares(raw: str, seconds: float) -> Mapping[str, float]:
    """Share of the time for which each part holds the lock.

    Args:
        raw: what py-spy writes: a stack and its count a line.
        seconds: for which it looked.
    """
    counts: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if count.isdecimal():
            counts[part_of(stack)] += int(count)
    return {part: count / (RATE * seconds) for part, count in counts.items()}


def probe(bench: Bench, running: Running, connections: int) -> tuple[Sample, Mapping[str, float]]:
    """Load a server and look at its lock meanwhile; returns what the load measured, and the share of each part."""
    seconds = max(1, int(bench.seconds))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "stacks"
        command = [
            str(PY_SPY),
            "record",
            "--gil",
            "--nonblocking",
            "--threads",
            "--rate",
            str(RATE),
            "--duration",
            str(seconds),
        ]
        command += ["--format", "raw", "--output", str(out), "--pid", str(running.session)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as spy:  # noqa: S603
            sample = bench.load(running, connections=connections)
            spy.wait()
        return sample, shares(out.read_text(), seconds)


def lock_table(sample: Sample, held: Mapping[str, float]) -> str:
    """Milliseconds of the lock for each picture, by part."""
    rows = [(part, f"{share:.2f}", f"{1000 * share / sample.rate:.2f}") for part, share in sorted(held.items())]
    total = sum(held.values())
    rows.append(("all", f"{total:.2f}", f"{1000 * total / sample.rate:.2f}"))
    return table(("lock held for", "of the time", "ms a picture"), rows)
