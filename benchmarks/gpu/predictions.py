"""Predictions over HTTP from a server on the GPU: raw JPEG bodies, a closed loop.

    python -m benchmarks.gpu.predictions

The parts are those of benchmarks.serving; the load comes from a process of its own on the same machine. The model is served as
captured CUDA graphs, without them, and with nvJPEG. Without a GPU: a small model, half a second each.
"""

import argparse
import json
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks.pgd import table
from benchmarks.serving.bench import MINI, RESNET18, Bench, prepare, subject
from benchmarks.serving.contenders import Running, ours, serving
from benchmarks.serving.summary import COST_HEADER, PACE_HEADER, cost_columns, pace_columns

PICTURES = 8

SERVED: dict[str, dict[str, object]] = {
    "CUDA graphs": {},
    "no graphs": {"cuda_graphs": False},
    "nvJPEG": {"decoder": "nvjpeg"},
}
"""How the model is served."""


def configure(running: Running, name: str, settings: Mapping[str, object]) -> dict[str, object]:
    """Change how a model is served, and load it in all processes; returns what the service says of the change."""
    url = f"http://127.0.0.1:{running.port}/v1/models/{name}"
    body, headers = json.dumps(settings).encode(), {"Content-Type": "application/json"}
    change = urllib.request.Request(f"{url}/serving", body, headers, method="PUT")  # noqa: S310
    with urllib.request.urlopen(change) as answer:  # noqa: S310
        view = json.load(answer)
    with urllib.request.urlopen(urllib.request.Request(f"{url}/load", method="POST")):  # noqa: S310
        return view


def main() -> None:
    """Start the server, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", help="not needed: whoever calls ends it")
    parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    name, connections, seconds = (RESNET18, (1, 128), 1.5) if torch.cuda.is_available() else (MINI, (1, 8), 0.5)
    server = ours("withstand", form=False)
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), seconds, 1, (server,))
        prepare(bench.folder, PICTURES)
        with serving(server, subject(name, bench.folder), bench.folder) as running:
            for served, settings in SERVED.items():
                try:
                    view = configure(running, name, settings)
                except urllib.error.HTTPError as error:
                    print(f"{served}: {json.load(error)['detail']}.\n")
                    continue
                if agreement := view["decoder_agreement"]:
                    print(f"{served}: {json.dumps(agreement)}\n")
                for count in connections:
                    sample = bench.load(running, connections=count)
                    rows.append((served, str(count), *pace_columns([sample]), *cost_columns([sample])))
    print(f"{name}, raw JPEG bodies, {seconds:g} s each.\n")
    print(table(("served with", "connections", *PACE_HEADER, *COST_HEADER), rows))


if __name__ == "__main__":
    main()
