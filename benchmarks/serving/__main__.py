"""Predictions over real HTTP: this service, LitServe, a plain FastAPI endpoint, and the ceiling without HTTP.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.serving
    python -m benchmarks.serving --model resnet18 --server withstand LitServe --seconds 4 --rounds 1
    python -m benchmarks.serving --overload --broken
    python -m benchmarks.serving --soak 10 --server "withstand, float32"

Prints Markdown. All servers are sent the same JPEGs in the same multipart forms, on keep-alive connections, by a generator in a
process of its own that shares their cores; its CPU time is in the tables. Every server is a subprocess; they take turns, one alone
at a time, started anew in each round, and all numbers are medians over the rounds. What is not installed is left out.

The ceiling is decoding, preprocessing and a forward pass in one process without HTTP: one by one with all threads (what a single
connection can reach), and in batches of 8 with one thread a core. Shares are of the folded float32 model's.

A closed loop keeps so many connections busy. An open loop sends at shares of the best rate that the server reached in closed loops
of the same round, and counts latencies from the time at which a request was due. "Server CPU" is of all its processes, divided by
good answers; "memory" is the sum of their resident peaks since the start.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Generator, Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.pgd import hardware
from benchmarks.serving import scenarios
from benchmarks.serving.bench import MINI, RESNET18, Bench, prepare, subject
from benchmarks.serving.ceiling import CORES
from benchmarks.serving.contenders import CONTENDERS, OVERRUN, Subject
from benchmarks.serving.null import NULL

PACKAGES = ("withstand", "torch", "torchvision", "pillow", "fastapi", "uvicorn", "uvloop", "httptools", "litserve")


def header(bench: Bench, left_out: Iterable[str]) -> str:
    """Say when, where, with what, and what is missing."""
    files = sorted((bench.folder / "pictures").iterdir())
    sizes = [file.stat().st_size / 1000 for file in files]
    lines = [
        f"{hardware(torch.device('cpu'))}, {CORES} cores, OMP_WAIT_POLICY={os.environ['OMP_WAIT_POLICY']}, "
        f"{datetime.now(UTC):%Y-%m-%d}.",
        ", ".join(f"{name} {installed(name) or 'not installed'}" for name in PACKAGES) + ".",
        f"{len(files)} JPEGs of {min(sizes):.0f} to {max(sizes):.0f} KB (mean {statistics.mean(sizes):.0f}), in forms; "
        f"{bench.seconds:g} s a cell, {bench.rounds} rounds.",
    ]
    lines += [f"{name} is not installed and left out." for name in left_out]
    return "\n".join(lines) + "\n"


def installed(name: str) -> str | None:
    """Version of a distribution, None if it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def read_flags() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", nargs="+", default=[RESNET18, MINI], help=f"default {RESNET18} {MINI}")
    parser.add_argument("--server", nargs="+", default=[""], help="servers whose names begin so (default all)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32, 128], help="default 1 8 32 128")
    parser.add_argument(
        "--fraction",
        type=float,
        nargs="*",
        default=[0.5, 0.8, 1.0, 2.0],
        help="rates of open loops, of the best closed loop's (default 0.5 0.8 1 2)",
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="turns, of which medians are taken (default 3)")
    parser.add_argument("--pictures", type=int, default=20, help="different pictures (default 20)")
    parser.add_argument("--apart", action="store_true", help="the load has the last core to itself, servers the others")
    parser.add_argument("--overload", action="store_true", help=f"instead: {scenarios.CROWD} connections")
    parser.add_argument("--broken", action="store_true", help="instead: broken pictures among good ones")
    parser.add_argument("--soak", type=int, metavar="MINUTES", help="instead: a steady load for so long, each server")
    return parser.parse_args()


def parts(bench: Bench, subject: Subject, flags: argparse.Namespace) -> Generator[str]:
    """Run what the flags ask for with one model; tables as they become ready."""
    if flags.overload:
        yield scenarios.overload(bench, subject)
    if flags.broken:
        yield scenarios.broken(bench, subject)
    if flags.soak:
        for contender in bench.contenders:
            yield scenarios.soak(bench, subject, contender, flags.soak)
    if not (flags.overload or flags.broken or flags.soak):
        results = scenarios.race(bench, subject, flags.connections, flags.fraction)
        yield scenarios.ceiling_table(results)
        yield scenarios.closed_table(results)
        yield scenarios.open_table(results)


def main() -> None:
    """Read the flags, print the tables."""
    flags = read_flags()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of every server: threads that spin slow down the generator
    servers = (*CONTENDERS, *OVERRUN) if flags.overload else CONTENDERS
    wanted = [each for each in servers if each.name.startswith(tuple(flags.server))]
    there = [each for each in wanted if each.is_installed]
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), flags.seconds, flags.rounds, there, apart=flags.apart)
        prepare(bench.folder, flags.pictures)
        print(header(bench, (each.name for each in wanted if each not in there)), flush=True)
        chosen = [subject(each, bench.folder) for each in flags.model]
        if not (flags.overload or flags.broken or flags.soak):
            floors = scenarios.floors(bench, chosen[0], flags.connections)
            print(f"## HTTP without a model\n\n{floors}", flush=True)
            print("## The null model: everything but the model\n", flush=True)
            for part in scenarios.without_a_model(bench, subject(NULL, bench.folder), flags.connections):
                print(part, flush=True)
        for each in chosen:
            print(f"## {each.name}\n", flush=True)
            for part in parts(bench, each, flags):
                print(part, flush=True)


if __name__ == "__main__":
    main()
