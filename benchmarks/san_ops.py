"""Time and memory of SAN's two operations against the unfold formulation, at the shapes of SAN10.

    python -m benchmarks.san_ops --batch 8 --threads 4
    python -m benchmarks.san_ops --device cuda --batch 64

Both formulations must agree before they are timed; they are timed in turns, so that a slow moment hits both. Times are medians;
memory is the peak above what the inputs take.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import profile

from models.families.san.network import PUBLISHED
from models.ops.neighbourhood import aggregation, subtraction, unfolded_aggregation, unfolded_subtraction

WIDTHS, MAPS, FOOTPRINTS = (64, 256, 512, 1024, 2048), (112, 56, 28, 14, 7), (3, 7, 7, 7, 7)

Operation = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Case:
    """One operation at one stage: `ours` against `theirs` on the same inputs."""

    name: str
    ours: Operation
    theirs: Operation
    inputs: tuple[Tensor, Tensor]
    kernel_size: int


def cases(batch: int, device: torch.device) -> list[Case]:
    """Make the inputs of both operations at every stage."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device).requires_grad_()

    made: list[Case] = []
    for stage, (width, size, k) in enumerate(zip(WIDTHS, MAPS, FOOTPRINTS, strict=True)):
        values, weights = (
            draw(batch, width // PUBLISHED.r2, size, size),
            draw(batch, width // PUBLISHED.r2 // PUBLISHED.share, k**2, size**2),
        )
        made.append(Case(f"aggregation stage {stage}", aggregation, unfolded_aggregation, (values, weights), k))
        relation = draw(batch, width // PUBLISHED.r1, size, size), draw(batch, width // PUBLISHED.r1, size, size)
        made.append(Case(f"subtraction stage {stage}", subtraction, unfolded_subtraction, relation, k))
    return made


def run(operation: Operation, case: Case, *, backward: bool) -> list[Tensor]:
    """Run forward, or forward and backward; returns the output and the gradients."""
    if not backward:
        with torch.no_grad():
            return [operation(*case.inputs, case.kernel_size)]
    output = operation(*case.inputs, case.kernel_size)
    return [output.detach(), *torch.autograd.grad(output, case.inputs, torch.ones_like(output))]


def require_agreement(case: Case) -> None:
    """Compare outputs and gradients of both formulations.

    Raises:
        RuntimeError: they differ by more than rounding in float32.
    """
    pairs = zip(run(case.ours, case, backward=True), run(case.theirs, case, backward=True), strict=True)
    for ours, theirs in pairs:
        if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4):
            raise RuntimeError(f"{case.name}: the formulations differ by {(ours - theirs).abs().max().item():g}")


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """Time one call, waiting for the device to finish."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return (time.perf_counter() - start) * 1000


def synchronize(device: torch.device) -> None:
    """Wait for what was started on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mib(call: Callable[[], object], device: torch.device) -> float:
    """Measure how far a call's tensors raise the memory in use at its highest point, MiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    profiler: Any = profile(
        profile_memory=True
    )  # its memory events are not typed, and those of operators take long to read
    with profiler:
        call()
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes), default=0) / 2**20


def report(case: Case, repeats: int, *, backward: bool) -> str:
    """Measure both formulations in turns and write one line of the table."""
    device = case.inputs[0].device
    calls = [partial(run, operation, case, backward=backward) for operation in (case.ours, case.theirs)]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for measured, call in zip(times, calls, strict=True):
            measured.append(milliseconds(call, device))
    ours, theirs = (statistics.median(measured) for measured in times)
    our_mib, their_mib = (peak_mib(call, device) for call in calls)
    name = f"{case.name}, {'forward+backward' if backward else 'forward'}"
    return f"{name:42}{ours:10.1f}{theirs:10.1f}{theirs / ours:8.2f}x{our_mib:10.1f}{their_mib:10.1f}{their_mib / our_mib:8.2f}x"


def main() -> None:
    """Read the flags, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=8, help="images (default 8)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda (default cpu)")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each, the median counts (default 5)")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    print(
        f"torch {torch.__version__}, {flags.device}, batch {flags.batch}, {flags.threads} threads, {flags.repeats} repeats"
    )
    print(f"{'':42}{'ours ms':>10}{'unfold ms':>10}{'speedup':>9}{'ours MiB':>10}{'unf. MiB':>10}{'saving':>9}")
    for case in cases(flags.batch, flags.device):
        require_agreement(case)
        for backward in (False, True):
            print(report(case, flags.repeats, backward=backward), flush=True)


if __name__ == "__main__":
    main()
