"""Every family at its published size: forward, and forward with the gradient to the images, against the naive formulations.

    python -m benchmarks.models --batch 4
    python -m benchmarks.models --device cuda --batch 64 --bfloat16

The peer is torchvision's ResNet-50; "rate" is a network's multiplications a second over ResNet-50's, so it compares at equal
multiplications. Naive are SAN by unfold and AA-ResNet with the table rows of every pair of positions in memory. All are timed in
turns, so that a slow moment hits them all; times are medians, on a CPU of the process's own time; memory is the peak above weights
and images. bfloat16 is autocast, and for folded SANs the products of the 1x1 convolutions: it pays where the processor has
instructions for it.
"""

import argparse
import statistics
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import cast
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
import models.families.aa_resnet.attention as aa_module
from benchmarks.san_core import own_milliseconds, unfolding
from benchmarks.san_ops import peak_mib
from models.families.aa_resnet.attention import AugmentedConv2d
from models.families.san.folded import FoldedSAN
from models.families.san.network import SAN

PEER = "resnet50"
NAMES = (
    PEER,
    "se_resnet50",
    "attention_mask_resnet34",
    "multi_attention_mask_resnet34",
    "aa_resnet50",
    "dat_tiny",
    "san10_pairwise",
    "san10_patchwise",
)


def materialised(layer: AugmentedConv2d, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys and values of a layer, and its relative logits from the table rows of every pair of places, (H*W, H*W, D)."""
    n, _, h, w = x.shape
    dims = [layer.key_dims, layer.key_dims, layer.value_dims]
    queries, keys, values = (part.reshape(n, layer.heads, -1, h * w).mT for part in layer.qkv(x).split(dims, 1))
    queries = queries * queries.shape[-1] ** -0.5
    ys, xs = torch.arange(h * w, device=x.device) // w, torch.arange(h * w, device=x.device) % w
    rows = layer.rel_h[ys - ys.unsqueeze(1) + h - 1] + layer.rel_w[xs - xs.unsqueeze(1) + w - 1]
    return queries, keys, values, torch.einsum("nhqd,qkd->nhqk", queries, rows)


@contextmanager
def materialising() -> Generator[None]:
    """Let AA-ResNet attend with the materialised relative logits as a bias."""

    def attention(queries: Tensor, keys: Tensor, values: Tensor, logits: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(queries, keys, values, logits, scale=1.0)

    with (
        patch.object(AugmentedConv2d, "_queries_keys_values", materialised),
        patch.object(aa_module, "_attention", attention),
    ):
        yield


@dataclass(frozen=True)
class Case:
    """One formulation of a network."""

    name: str
    macs: int
    network: nn.Module
    formulation: Callable[[], AbstractContextManager[None]] = nullcontext
    bfloat16: bool = False

    def run(self, images: Tensor, *, gradient: bool) -> Tensor:
        """Compute logits, or the gradient of their mean square to the images."""
        autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16)
        with self.formulation(), torch.set_grad_enabled(gradient):
            with autocast:
                logits = self.network(images)
            if not gradient:
                return logits
            return torch.autograd.grad(logits.float().square().mean(), images)[0]


def cases(names: tuple[str, ...], device: torch.device, *, bfloat16: bool) -> list[Case]:
    """Build all networks, frozen and in evaluation mode, and their formulations."""
    made: list[Case] = []
    for name in names:
        torch.manual_seed(0)
        network = models.create(name).eval().requires_grad_(False)
        macs = models.complexity(network, models.spec(name).input_shape).macs
        network = network.to(device)
        made.append(Case(name, macs, network))
        if name.startswith("aa_"):
            made.append(Case(f"{name}, materialised", macs, network, materialising))
        if isinstance(network, SAN):
            made.append(Case(f"{name}, unfold", macs, network, unfolding))
            made.append(Case(f"{name}, folded", macs, FoldedSAN(network)))
            if bfloat16:
                made.append(Case(f"{name}, folded bfloat16", macs, FoldedSAN(network, matmul_dtype=torch.bfloat16)))
        elif bfloat16:
            made.append(Case(f"{name}, bfloat16", macs, network, bfloat16=True))
    return made


def measure(made: list[Case], images: Tensor, repeats: int, *, gradient: bool) -> str:
    """Time all cases in turns and write one line each."""
    calls: list[Callable[[], Tensor]] = [partial(case.run, images, gradient=gradient) for case in made]
    for call in calls:
        call()
    turns = [[own_milliseconds(call, images.device) for call in calls] for _ in range(repeats)]
    lines: list[str] = []
    for index, (case, call) in enumerate(zip(made, calls, strict=True)):
        milliseconds = statistics.median(turn[index] for turn in turns)
        rate = statistics.median(turn[0] / turn[index] for turn in turns) * case.macs / made[0].macs
        memory = peak_mib(cast(Callable[[], object], call), images.device)
        lines.append(
            f"{case.name:40}{case.macs / 1e9:8.2f}{milliseconds:10.0f}{len(images) / milliseconds * 1000:10.2f}"
            f"{rate:8.2f}{memory:10.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Read the flags, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=4, help="images (default 4)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda (default cpu)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default 3)")
    parser.add_argument("--bfloat16", action="store_true", help="also in bfloat16")
    parser.add_argument(
        "--names", nargs="+", default=list(NAMES[1:]), help="architectures beside the peer (default all)"
    )
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    print(
        f"torch {torch.__version__}, {flags.device}, batch {flags.batch}, {flags.threads} threads, {flags.repeats} turns"
    )
    made = cases((PEER, *flags.names), flags.device, bfloat16=flags.bfloat16)
    images = torch.randn(flags.batch, 3, 224, 224).to(flags.device)
    for gradient in (False, True):
        what = "forward + gradient to images" if gradient else "forward"
        print(f"{what:40}{'GMAC':>8}{'ms':>10}{'images/s':>10}{'rate':>8}{'MiB':>10}")
        print(measure(made, images.clone().requires_grad_(gradient), flags.repeats, gradient=gradient), flush=True)


if __name__ == "__main__":
    main()
