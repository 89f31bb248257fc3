"""Time and memory of SAN's attention on a GPU: unfold, what runs without kernels, and the Triton kernels.

    python -m benchmarks.san_gpu --batch 64

Forward and gradient to the operands at the shapes of SAN10; `pairwise` is the whole attention after its three convolutions, with
frozen weights, `aggregation` its last step. All formulations must agree before they are timed; they are timed in turns. Times are
medians; memory is the peak above the operands.
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
from models.ops import pairwise, triton_fit, triton_ops
from models.ops.neighbourhood import aggregation, unfolded_aggregation
from models.ops.triton_fit import Launch

Call = Callable[[], tuple[Tensor, ...]]
"""Computes an output and gradients."""

LAUNCHES = tuple(Launch(*tile, warps) for tile in ((4, 4), (4, 8), (8, 8), (8, 16)) for warps in (4, 8))
"""Of the pairwise kernels, to be tried; `models.ops.triton_fit.pairwise_launch` makes the choice."""

TOLERANCE = 0.01
"""Of outputs and gradients, in the root mean square: rounding flips single ReLUs."""


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

    def ours() -> tuple[Tensor, ...]:
        return tuple(y.permute(0, 3, 1, 2) for y in gradient(folded.attend, nhwc))

    return {
        "unfold": partial(unfolded, partial(gradient, attend, nchw)),
        "fallback": partial(without_kernels, ours),
        "kernels": ours,
    }


def launched(launch: Launch, call: Call) -> tuple[Tensor, ...]:
    """The same call with other tiles and warps of the pairwise kernels.

    Raises:
        RuntimeError: kernels of this kind do not fit the GPU.
    """
    with (
        patch.object(triton_fit, "pairwise_launch", return_value=launch),
        patch.object(pairwise, "unfolded_pairwise", side_effect=RuntimeError("does not fit")),
    ):
        return call()


def fastest(calls: dict[str, Call], repeats: int, device: torch.device) -> str:
    """Try all LAUNCHES, which must agree with unfold, and name the fastest in one line, and those that fail."""
    times: dict[Launch, float] = {}
    failed: list[str] = []
    for launch in LAUNCHES:
        call = partial(launched, launch, calls["kernels"])
        try:
            require_agreement({"unfold": calls["unfold"], "kernels": call})
        except Exception as error:
            failed.append(f"{describe(launch)} ({str(error).splitlines()[0]})")
        else:
            times[launch] = statistics.median(milliseconds(call, device) for _ in range(repeats))
    order = ", ".join(f"{describe(launch)} {times[launch]:.2f} ms" for launch in sorted(times, key=times.__getitem__))
    return f"fastest first: {order}" + (f"; failed: {', '.join(failed)}" if failed else "")


def describe(launch: Launch) -> str:
    """In words."""
    return f"{launch.height}x{launch.width} pixels in {launch.warps} warps"


def require_agreement(calls: dict[str, Call]) -> None:
    """Compare with the first formulation; its results are not kept.

    Raises:
        RuntimeError: a result differs by more than TOLERANCE, relative to the first.
    """
    (_, reference), *others = calls.items()
    expected = reference()
    for name, call in others:
        for ours, theirs in zip(call(), expected, strict=True):
            error = ((ours - theirs).norm() / theirs.norm()).item()
            if not error <= TOLERANCE:
                raise RuntimeError(f"{name}: differs from unfold by {error:g}")


def report(name: str, calls: dict[str, Call], repeats: int, device: torch.device) -> str:
    """Measure all formulations in turns and write one line a formulation."""
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
    for stage in range(len(WIDTHS)):
        print(
            f"pairwise stage {stage}, {fastest(attentions(stage, flags.batch, device), flags.repeats, device)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
