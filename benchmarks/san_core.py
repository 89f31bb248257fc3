"""Time and memory of SAN's fast path against the unfold formulation and the plain modules, at the shapes of SAN10.

    python -m benchmarks.san_core --part core
    python -m benchmarks.san_core --part network --repeats 3

Forward and gradient to the input, weights frozen. All formulations must agree before they are timed; they are timed in turns, so
that a slow moment hits them all. Times are medians, on a CPU of the process's own time, which neighbours on a shared machine
disturb less; speedups are medians of each turn's ratio; memory is the peak above the inputs. Products in bfloat16 pay only where
the processor has instructions for them (AMX, AVX512-BF16); elsewhere leave them out: --without "folded bf16".
"""

import argparse
import statistics
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor, nn

import models.families.san.network as san_module
from benchmarks.san_ops import (
    FOOTPRINTS,
    MAPS,
    WIDTHS,
    milliseconds,
    peak_mib,
)
from models.families.san.folded import FoldedPairwise, FoldedPatchwise, FoldedSAN
from models.families.san.network import PUBLISHED, SAN, Block, Kind, PairwiseAttention, PatchwiseAttention
from models.ops.neighbourhood import unfolded_aggregation, unfolded_subtraction

TOLERANCES = {"plain": 0.01, "tiled": 1e-4, "folded": 0.01, "folded bf16": 0.5}
"""Of outputs and gradients, in the root mean square. Rounding flips single ReLUs, so gradients of whole networks differ more."""

Call = Callable[[], tuple[Tensor, Tensor]]
"""Computes an output and the gradient to the input."""


def attend(module: PairwiseAttention | PatchwiseAttention, merged: Tensor) -> Tensor:
    """Attention after its three convolutions, of which `merged` holds the outputs (N, 2R + C/4, H, W)."""
    r = module.relation
    x1, x2, x3 = merged.split([r, r, merged.shape[1] - 2 * r], 1)
    return san_module.aggregation(x3, module.weights(x1, x2), module.kernel_size)


@contextmanager
def unfolding() -> Generator[None]:
    """Put the unfold formulation into `models.families.san`."""
    with (
        patch.object(san_module, "subtraction", unfolded_subtraction),
        patch.object(san_module, "aggregation", unfolded_aggregation),
    ):
        yield


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Output and gradient to the input of the output's mean square."""
    output = function(x)
    (result,) = torch.autograd.grad(output.square().mean() * 1000, x)
    return output.detach(), result


def unfolded(call: Call) -> tuple[Tensor, Tensor]:
    """The same call of the plain modules in the unfold formulation."""
    with unfolding():
        return call()


def cores(kind: Kind, stage: int, batch: int, device: torch.device) -> dict[str, Call]:
    """The three formulations of one stage's attention."""
    width, size, k = WIDTHS[stage], MAPS[stage], FOOTPRINTS[stage]
    torch.manual_seed(0)
    attention = PairwiseAttention if kind == "pairwise" else PatchwiseAttention
    block = Block(attention, width, k, PUBLISHED).eval().requires_grad_(False).to(device)
    tiled = (FoldedPairwise if kind == "pairwise" else FoldedPatchwise)(block).to(block.conv.weight)
    x = torch.randn(batch, size, size, width * 3 // 8, device=device)
    nhwc, nchw = x.clone().requires_grad_(), x.permute(0, 3, 1, 2).contiguous().requires_grad_()
    plain = partial(gradient, partial(attend, block.sam), nchw)

    def transposed() -> tuple[Tensor, Tensor]:
        output, gradients = gradient(tiled.attend, nhwc)
        return output.permute(0, 3, 1, 2), gradients.permute(0, 3, 1, 2)

    return {"unfold": partial(unfolded, plain), "plain": plain, "tiled": transposed}


def networks(kind: Kind, batch: int, device: torch.device) -> dict[str, Call]:
    """Four forms of SAN10."""
    torch.manual_seed(0)
    san = SAN(1000, kind=kind, blocks=(2, 1, 2, 4, 1)).eval().requires_grad_(False).to(device)
    randomise_statistics(san)
    images = torch.randn(batch, 3, 224, 224, device=device).requires_grad_()

    plain = partial(gradient, san, images)
    return {
        "unfold": partial(unfolded, plain),
        "plain": plain,
        "folded": partial(gradient, FoldedSAN(san), images),
        "folded bf16": partial(gradient, FoldedSAN(san, matmul_dtype=torch.bfloat16), images),
    }


def randomise_statistics(san: SAN) -> None:
    """Draw norms that differ from the identity."""
    for norm in san.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.1, 0.1)


def require_agreement(calls: Mapping[str, Call]) -> None:
    """Compare outputs and gradients with those of the first formulation.

    Raises:
        RuntimeError: they differ by more than TOLERANCES, relative to the first.
    """
    (_, reference), *others = calls.items()
    expected = reference()
    for name, call in others:
        for ours, theirs in zip(call(), expected, strict=True):
            error = ((ours - theirs).norm() / theirs.norm()).item()
            if not error <= TOLERANCES[name]:
                raise RuntimeError(f"{name}: differs from unfold by {error:g}")


def own_milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """Time one call: what the process uses of a CPU, or what passes on a GPU."""
    if device.type != "cpu":
        return milliseconds(call, device)
    start = time.process_time()
    call()
    return (time.process_time() - start) * 1000


def report(name: str, calls: Mapping[str, Call], repeats: int, device: torch.device) -> str:
    """Measure all formulations in turns and write one line per formulation."""
    times: dict[str, list[float]] = {key: [] for key in calls}
    for _ in range(repeats):
        for key, call in calls.items():
            times[key].append(own_milliseconds(call, device))
    memory = {key: peak_mib(call, device) for key, call in calls.items()}
    lines: list[str] = []
    for key in calls:
        speedup = statistics.median(a / b for a, b in zip(times["unfold"], times[key], strict=True))
        saving = memory["unfold"] / memory[key]
        lines.append(
            f"{name:20}{key:14}{statistics.median(times[key]):10.1f}{speedup:9.2f}x{memory[key]:10.1f}{saving:9.2f}x"
        )
    return "\n".join(lines)


def main() -> None:
    """Read the flags, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--part", choices=["core", "network", "both"], default="both", help="what to time (default both)"
    )
    parser.add_argument("--batch", type=int, default=8, help="images (default 8)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda (default cpu)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default 3)")
    parser.add_argument(
        "--without", action="append", default=[], help="leave out a formulation, for example 'folded bf16'"
    )
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    print(
        f"torch {torch.__version__}, {flags.device}, batch {flags.batch}, {flags.threads} threads, {flags.repeats} turns"
    )
    print(f"{'forward + gradient':34}{'ms':>10}{'speedup':>10}{'MiB':>10}{'saving':>10}")
    cases: list[tuple[str, Callable[[], dict[str, Call]]]] = []
    kinds: tuple[Kind, ...] = ("pairwise", "patchwise")
    for kind in kinds:
        if flags.part != "network":
            for stage in range(len(WIDTHS)):
                cases.append((f"{kind} stage {stage}", partial(cores, kind, stage, flags.batch, flags.device)))
    for kind in kinds:
        if flags.part != "core":
            cases.append((f"SAN10 {kind}", partial(networks, kind, flags.batch, flags.device)))
    for name, make in cases:
        calls = {key: call for key, call in make().items() if key not in flags.without}
        require_agreement(calls)
        print(report(name, calls, flags.repeats, flags.device), flush=True)


if __name__ == "__main__":
    main()
