"""Random draws that belong to images against those of PyTorch's generator, which belong to a batch.

    python -m benchmarks.draws --device cuda

Prints Markdown: milliseconds of `Draws.uniform` and `Draws.normal`, and their ratio to `torch.rand` and `torch.randn` of the same
shape on the same device. All take turns; times are medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from attacks import Draws
from benchmarks.pgd import hardware, table

SHAPES = ((64, 3, 224, 224), (100, 3, 28, 28))


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """Time one call, on a GPU to its end."""
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - began)


def compare(shape: tuple[int, ...], device: torch.device, rounds: int) -> list[tuple[str, ...]]:
    """Rows of a table: what is drawn, milliseconds of theirs and of ours, the ratio."""
    images, draws = torch.empty(shape, device=device), Draws.of(0, range(shape[0]), device=device)
    calls = {
        "torch.rand": partial(torch.rand, shape, device=device),
        "uniform": partial(draws.uniform, images),
        "torch.randn": partial(torch.randn, shape, device=device),
        "normal": partial(draws.normal, images),
    }
    turns = [{name: milliseconds(call, device) for name, call in calls.items()} for _ in range(rounds + 2)][2:]
    times = {name: statistics.median(turn[name] for turn in turns) for name in calls}
    size, threads = " x ".join(map(str, shape)), str(torch.get_num_threads())
    return [
        (ours, size, threads, f"{times[theirs]:.2f}", f"{times[ours]:.2f}", f"{times[ours] / times[theirs]:.2f}")
        for theirs, ours in (("torch.rand", "uniform"), ("torch.randn", "normal"))
    ]


def main() -> None:
    """Read the flags, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda (default cpu)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads (default 1 2)")
    parser.add_argument("--rounds", type=int, default=15, help="turns, of which medians are taken (default 15)")
    flags = parser.parse_args()
    print(f"{hardware(flags.device)}, {flags.device}, torch {torch.__version__}\n")
    rows: list[tuple[str, ...]] = []
    for threads in flags.threads:
        torch.set_num_threads(threads)
        for shape in SHAPES:
            rows += compare(shape, flags.device, flags.rounds)
    print(table(("drawn", "shape", "threads", "PyTorch, ms", "ours, ms", "ratio"), rows))


if __name__ == "__main__":
    main()
