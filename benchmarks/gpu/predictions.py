"""Predictions over HTTP from a server on the GPU: raw JPEG bodies, a closed loop.

    python -m benchmarks.gpu.predictions

The parts are those of benchmarks.serving; the load comes from a process of its own on the same machine. Without a GPU: a small
model, half a second each.
"""

import argparse
import os
import tempfile
from pathlib import Path

import torch

from benchmarks.pgd import table
from benchmarks.serving.bench import MINI, RESNET18, Bench, prepare, subject
from benchmarks.serving.contenders import ours, serving
from benchmarks.serving.summary import COST_HEADER, PACE_HEADER, cost_columns, pace_columns

PICTURES = 8


def main() -> None:
    """Start the server, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", help="not needed: whoever calls ends it")
    parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    name, connections, seconds = (RESNET18, (1, 8, 32, 128), 4.0) if torch.cuda.is_available() else (MINI, (1, 8), 0.5)
    server = ours("withstand", form=False)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), seconds, 1, (server,))
        prepare(bench.folder, PICTURES)
        with serving(server, subject(name, bench.folder), bench.folder) as running:
            samples = {count: bench.load(running, connections=count) for count in connections}
    rows = [(str(count), *pace_columns([each]), *cost_columns([each])) for count, each in samples.items()]
    print(f"{name}, raw JPEG bodies, {seconds:g} s each.\n")
    print(table(("connections", *PACE_HEADER, *COST_HEADER), rows))


if __name__ == "__main__":
    main()
