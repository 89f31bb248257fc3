"""Time and memory of SAN's attention on a GPU: unfold, what runs without kernels, and the Triton kernels.

    python -m benchmarks.san_gpu --batch 64

Forward and gradient to the operands at the shapes of SAN10; `pairwise` is the whole attention after its three convolutions, with
frozen weights, `aggregation` its last step. All formulations must agree before they are timed; they are timed in turns. Times are
medians; memory is the peak above the operands. How each kernel was started, and what else was tried, follows: see
`models.ops.triton_choice`, which measured it, now or in an earlier process.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.san_core import gradient, unfolded
from benchmarks.san_ops import FOOTPRINTS, MAPS, WIDTHS, milliseconds, peak_mib
from models.families.san.folded import FoldedPairwise
from models.families.san.network import PUBLISHED, Block, PairwiseAttention
from models.ops import triton_ops
from models.ops.neighbourhood import aggregation, unfolded_aggregation
from models.ops.triton_choice import choice_of
from models.ops.triton_fit import Kernel, Launch, aggregation_kernels, pairwise_kernels

Call = Callable[[], tuple[Tensor, ...]]
"""Computes an output and gradients."""

TOLERANCES = {"fallback": 0.01, "kernels": 0.01, "bfloat16": 0.03}
"""Of outputs and gradients, in the root mean square: rounding flips single ReLUs."""


DTYPES = {"pairwise": (torch.float32, torch.bfloat16), "aggregation": (torch.float32,)}
"""In which kernels are measured."""


def without_kernels(call: Call) -> tuple[Tensor, ...]:
    """The same call where no kernel fits."""
    with patch.object(triton_ops, "HAS_TRITON", False):
        return call()


def aggregations(stage: int, batch: int, device: torch.device) -> dict[str, Call]:
    """The formulations of one stage's aggregation."""
    width, size, k = WIDTHS[stage], MAPS[stage], FOOTPRINTS[stage]
    channels = width // PUBLISHED.r2
    values = torch.randn(batch, channels, size, size, device=device).requires_grad_()
    maps = torch.randn(batch, channels // PUBLISHED.share, k * k, size * size, device=device).requires_grad_()

    def call(operation: Callable[[Tensor, Tensor, int], Tensor]) -> tuple[Tensor, ...]:
        output = operation(values, maps, k)
        return output.detach(), *torch.autograd.grad(output.square().sum(), (values, maps))

    ours = partial(call, aggregation)
    return {"unfold": partial(call, unfolded_aggregation), "fallback": partial(without_kernels, ours), "kernels": ours}


def attentions(stage: int, batch: int, device: torch.device) -> dict[str, Call]:
    """The formulations of one stage's pairwise attention."""
    width, size = WIDTHS[stage], MAPS[stage]
    torch.manual_seed(0)
    block = Block(PairwiseAttention, width, FOOTPRINTS[stage], PUBLISHED).eval().requires_grad_(False).to(device)
    folded = FoldedPairwise(block).to(block.conv.weight)
    x = torch.randn(batch, size, size, width * 3 // 8, device=device)
    nhwc, nchw = x.clone().requires_grad_(), x.permute(0, 3, 1, 2).contiguous().requires_grad_()

    def attend(merged: Tensor) -> Tensor:
        r = block.sam.relation
        x1, x2, x3 = merged.split([r, r, merged.shape[1] - 2 * r], 1)
        return aggregation(x3, block.sam.weights(x1, x2), block.sam.kernel_size)

    def ours(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(y.permute(0, 3, 1, 2) for y in gradient(folded.attend, x))

    return {
        "unfold": partial(unfolded, partial(gradient, attend, nchw)),
        "fallback": partial(without_kernels, partial(ours, nhwc)),
        "kernels": partial(ours, nhwc),
        "bfloat16": partial(ours, x.bfloat16().requires_grad_()),
    }


def kernels_of(kind: str, stage: int, dtype: torch.dtype) -> tuple[Kernel, ...]:
    """Forward and backward kernels of one stage; all published networks have the same."""
    width, size, k = WIDTHS[stage], MAPS[stage], FOOTPRINTS[stage]
    relation, channels = width // PUBLISHED.r1, width // PUBLISHED.r2
    maps = channels // PUBLISHED.share
    if kind == "aggregation":
        return aggregation_kernels((1, channels, size, size), maps, k)
    merged = torch.empty(1, size, size, 2 * relation + channels, device="meta", dtype=dtype)
    x1, x2, x3 = merged.split([relation, relation, channels], -1)
    return pairwise_kernels(x1, x2, x3, torch.empty(relation, maps, device="meta"), k)


def decisions(kind: str, stage: int, dtype: torch.dtype, device: torch.device) -> str:
    """What was chosen for the kernels of one stage: all times, fastest first, one line for each kernel."""
    lines: list[str] = []
    for kernel in kernels_of(kind, stage, dtype):
        choice = choice_of(kernel, dtype, device)
        times = [
            f"{ms:.3f} ms {describe(launch)}{' (default)' * (launch == kernel.launch)}" for launch, ms in choice.times
        ]
        unmeasured = f"{describe(choice.launch)}, not measured" if choice.launch else "does not fit"
        lines.append(f"{kernel.name} stage {stage} {str(dtype).split('.')[1]}: {', '.join(times) or unmeasured}")
    return "\n".join(lines)


def describe(launch: Launch) -> str:
    """In short."""
    return "{}x{} pixels, {} warps, {} taps, {} stages".format(*launch)


def require_agreement(calls: dict[str, Call]) -> None:
    """Compare with the first formulation; its results are not kept.

    Raises:
        RuntimeError: a result differs by more than its entry in TOLERANCES, relative to the first.
    """
    (_, reference), *others = calls.items()
    expected = reference()
    for name, call in others:
        for ours, theirs in zip(call(), expected, strict=True):
            error = ((ours - theirs).norm() / theirs.norm()).item()
            if not error <= TOLERANCES[name]:
                raise RuntimeError(f"{name}: differs from unfold by {error:g}")


def report(name: str, calls: dict[str, Call], repeats: int, device: torch.device) -> str:
    """Measure all formulations in turns and write one line per formulation."""
    times: dict[str, list[float]] = {key: [] for key in calls}
    for _ in range(repeats):
        for key, call in calls.items():
            times[key].append(milliseconds(call, device))
    medians = {key: statistics.median(values) for key, values in times.items()}
    lines = [
        f"{name:22}{key:10}{medians[key]:10.2f}{medians['unfold'] / medians[key]:9.1f}x{peak_mib(call, device):10.1f}"
        for key, call in calls.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Read the flags, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=16, help="images (default 16)")
    parser.add_argument("--repeats", type=int, default=20, help="turns (default 20)")
    flags = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA GPU and there is none; benchmarks.san_core measures on a CPU")
    if not triton_ops.HAS_TRITON:
        sys.exit("this benchmark needs Triton: pip install triton")
    device = torch.device("cuda")
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, batch {flags.batch}, {flags.repeats} turns")
    print(f"{'forward + gradient':32}{'ms':>10}{'speedup':>10}{'MiB':>10}")
    for kind, make in (("pairwise", attentions), ("aggregation", aggregations)):
        for stage in range(len(WIDTHS)):
            calls = make(stage, flags.batch, device)
            require_agreement(calls)
            print(report(f"{kind} stage {stage}", calls, flags.repeats, device), flush=True)
            for dtype in DTYPES[kind]:
                print(decisions(kind, stage, dtype, device), flush=True)


if __name__ == "__main__":
    main()
