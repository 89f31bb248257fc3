"""PGD on Linf 8/255 with large models: torchattacks, the floor and ours, in every precision.

    python -m benchmarks.gpu.attacks

Every image goes through every step. The floor is that many passes forward and back to the images of the folded model: eager,
captured as a CUDA graph, compiled and then captured. Ours searches a captured copy, as an evaluation does: with and without random
start, and as `run_attack`, which looks at the clean images and judges in float32 too. Weights are random, the norms' statistics
those of the images. All take turns, medians count; memory is the peak of the first run, captures included, above the weights.
Without a GPU: small models, two steps, nothing captured.
"""

import argparse
import copy
import logging
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import attacks
import models
from attacks.gradient import look
from benchmarks.gpu.networks import in_precision, precisions, random_classifier
from benchmarks.pgd import THREAT, bare, pgd, table, torchattacks_pgd
from benchmarks.san_core import own_milliseconds
from benchmarks.san_ops import peak_mib
from common.cuda_graphs import RecorderOnGpu

MODELS = {"resnet50": 64, "dat_tiny": 64, "aa_resnet50": 32, "san10_pairwise": 32, "san10_patchwise": 32}
"""Batches. An error of a kernel can end all that follows: those of our own kernels come last."""
TOYS = {"resnet_mini": 2, "san_mini_pairwise": 2}
COMPILED_TOYS = {"resnet_mini": 2}
ROUNDS = 2
CONTEND_S, COMPILE_S = 15.0, 45.0
"""Nothing is begun with less time left, seconds: one model's contenders, one model compiled."""

Run = Callable[[], object]
Make = Callable[[], Run]
"""Prepares a run; what it captures or compiles is done then, or in the first run."""
Contender = tuple[str, models.Precision]


@dataclass(frozen=True)
class Work:
    """A model, a batch for it, and the steps each image goes through."""

    plain: models.Classifier
    images: Tensor
    labels: Tensor
    steps: int

    @classmethod
    def of(cls, name: str, batch: int, device: torch.device) -> "Work":
        """Draw images; the labels are the model's own answers."""
        side = models.spec(name).input_shape[-1]
        images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
        plain = random_classifier(name, images)
        with torch.no_grad():
            labels = plain(images).argmax(1)
        return cls(plain, images, labels, 10 if device.type == "cuda" else 2)

    def rate(self, seconds: float) -> str:
        """Images x steps a second."""
        return f"{len(self.images) * self.steps / seconds:,.0f}"


def total(logits: Tensor) -> Tensor:
    """The floor's loss (N,) of logits (N, K)."""
    return logits.sum(1)


def floor(work: Work, model: nn.Module, *, captured: bool) -> Run:
    """Forward and back to the images, and nothing else."""
    if not captured:
        return partial(bare, model, work.images, work.steps)
    step = RecorderOnGpu()(partial(look, model, work.images, total))
    return lambda: [step() for _ in range(work.steps)]


def ours(
    work: Work,
    judge: nn.Module,
    searched: nn.Module,
    precision: models.Precision,
    *,
    random_start: bool,
    harness: bool,
) -> Run:
    """Our attack alone, or as `run_attack`; draws belong to images, as in an evaluation."""
    attack = replace(pgd(work.steps, "last_step"), random_start=random_start)
    draws = attacks.Draws.of(0, range(len(work.images)), device=work.images.device)
    if not harness:
        return partial(attack.perturb, attacks.Task(searched, work.images, work.labels, THREAT, draws))
    return partial(
        attacks.run_attack,
        attack,
        judge,
        work.images,
        work.labels,
        threat=THREAT,
        draws=draws,
        searched=searched,
        searched_as=models.float32_in(precision),
    )


def contenders(work: Work) -> dict[Contender, Make]:
    """All of them, by name and precision."""
    on_gpu, judge = work.images.is_cuda, models.fold(work.plain)
    theirs = torchattacks_pgd(copy.deepcopy(work.plain), work.steps)
    made: dict[Contender, Make] = {}
    for precision in precisions(work.images.device):
        if precision != "bfloat16":
            made["torchattacks", precision] = lambda: partial(theirs, work.images, work.labels)
        folded = models.fold(work.plain, precision)
        searched = attacks.Captured(folded) if on_gpu else folded
        mine = partial(ours, work, judge, searched, precision)
        made["floor, eager", precision] = partial(floor, work, folded, captured=False)
        if on_gpu:
            made["floor, captured", precision] = partial(floor, work, folded, captured=True)
        made["ours, no random start", precision] = partial(mine, random_start=False, harness=False)
        made["ours, random start", precision] = partial(mine, random_start=True, harness=False)
        made["ours, run_attack", precision] = partial(mine, random_start=True, harness=True)
    return made


def first(make: Make, device: torch.device) -> tuple[Run, float]:
    """Prepare and run once; returns what can be run again, and the peak of memory, MiB."""
    kept: list[Run] = []

    def both() -> None:
        kept.append(make())
        kept[0]()

    peak = peak_mib(both, device)
    return kept[0], peak


def reason(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300].replace("|", "/")


def measure(work: Work, makes: Mapping[Contender, Make]) -> str:
    """Run all that can be run, in turns; a Markdown table, and why the others cannot."""
    device = work.images.device
    ready: dict[Contender, tuple[Run, float]] = {}
    failed: dict[Contender, str] = {}
    for key, make in makes.items():
        try:
            call, peak = in_precision(key[1], partial(first, make, device))()
            ready[key] = in_precision(key[1], call), peak
        except Exception as error:
            failed[key] = reason(error)
    turns = [{key: own_milliseconds(call, device) / 1000 for key, (call, _) in ready.items()} for _ in range(ROUNDS)]
    seconds = {key: statistics.median(turn[key] for turn in turns) for key in ready}
    rows = [
        (*key, work.rate(seconds[key]), over(seconds, key), f"{ready[key][1]:,.0f}")
        if key in ready
        else (*key, "failed", "", "")
        for key in makes
    ]
    header = ("", "precision", "images x steps/s", "time over the eager floor", "peak MiB")
    return "\n".join([table(header, rows), *(f"- {', '.join(key)}: {why}" for key, why in failed.items())]) + "\n"


def over(seconds: Mapping[Contender, float], key: Contender) -> str:
    """Time over that of the floor in the same precision."""
    base = seconds.get(("floor, eager", key[1]))
    return f"{seconds[key] / base:.2f}" if base else ""


def compiled(work: Work) -> dict[Contender, Make]:
    """The floor of a model that torch.compile makes, the fastest precision first, beside the eager one."""
    on_gpu = work.images.is_cuda
    made: dict[Contender, Make] = {}
    for precision in reversed(precisions(work.images.device)):
        folded = models.fold(work.plain, precision)
        fast: Any = torch.compile(folded, backend="inductor" if on_gpu else "eager")
        made["floor, eager", precision] = partial(floor, work, folded, captured=False)
        made["floor, compiled" + ", captured" * on_gpu, precision] = partial(floor, work, fast, captured=on_gpu)
        if on_gpu:
            searched = attacks.Captured(folded, batch=len(work.images), compiler=attacks.compiled)
            mine = partial(ours, work, models.fold(work.plain), searched, precision)
            made["ours, run_attack, compiled", precision] = partial(mine, random_start=True, harness=True)
    return made


Makes = Callable[[Work], Mapping[Contender, Make]]


def parts(device: torch.device) -> list[tuple[str, Mapping[str, int], Makes, float]]:
    """What is measured: words for the heading, models with their batches, contenders, and the seconds that one model takes."""
    on_gpu = device.type == "cuda"
    return [
        ("", MODELS if on_gpu else TOYS, contenders, CONTEND_S),
        (", compiled", MODELS if on_gpu else COMPILED_TOYS, compiled, COMPILE_S),
    ]


def main() -> None:
    """Read the flags, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600.0, help="begin nothing that takes longer (default 600)")
    until = time.monotonic() + parser.parse_args().seconds
    logging.basicConfig(stream=sys.stdout, format="%(message)s\n")  # what cannot be captured says so
    logging.getLogger("attacks").setLevel(logging.INFO)  # and whether what is compiled is used
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for suffix, chosen, make, takes in parts(device):
        for name, batch in chosen.items():
            print(f"### {name}, batch {batch}{suffix}\n", flush=True)
            if until - time.monotonic() < takes:
                print("Not reached in time.\n", flush=True)
                continue
            try:
                work = Work.of(name, batch, device)
                print(measure(work, make(work)), flush=True)
            except Exception as error:
                print(f"{reason(error)}\n", flush=True)
            torch.cuda.empty_cache()
            torch.compiler.reset()


if __name__ == "__main__":
    main()
