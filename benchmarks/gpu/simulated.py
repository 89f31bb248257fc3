"""How busy an evaluation keeps a device that computes by itself, shown without one.

    python -m benchmarks.gpu.simulated
    python -m benchmarks.gpu.simulated --images 1000 --forward-ms 0.5 --backward-ms 1

The device is simulated: a pass takes a fixed time for each image, during which it uses no core, and one pass runs at a time.
Everything else is a whole evaluation from JPEGs as in benchmarks.gpu.evaluation. "Busy" is the share of its wall time in which the
device works. "At most" is the share that decoding alone would allow, with one thread or one for each core, if every picture were
computed as soon as it is decoded. Images are small, 64 x 64 of the decoded picture, so that what a GPU would do beside its passes
costs little here.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

import evaluation
import models
from benchmarks.gpu.evaluation import DATASET, measure, prepare, specification
from benchmarks.pgd import hardware, pgd, table

ARCHITECTURE, SIDE = "simulated", 64
FORWARD_MS, BACKWARD_MS = 0.1, 0.2
"""Of an image: about what a ResNet-50 takes on an H100."""


@dataclass
class Device:
    """What computes one pass at a time; times are for each image, in seconds."""

    forward_s: float
    backward_s: float
    busy_s: float = 0.0
    lock: Lock = field(default_factory=Lock)

    def work(self, seconds: float) -> None:
        """Be busy for so long."""
        with self.lock:
            start = time.perf_counter()
            time.sleep(seconds)
            self.busy_s += time.perf_counter() - start

    def __deepcopy__(self, memo: object) -> "Device":
        return self  # copies of a model run on the same one


class Pass(torch.autograd.Function):
    """Occupies the device on the way forward and on the way back, and changes nothing."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, device: Device) -> Tensor:
        """Takes and returns images (N, C, H, W)."""
        ctx.device = device
        device.work(len(images) * device.forward_s)
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Takes and returns their gradient."""
        (gradient,) = gradients
        ctx.device.work(len(gradient) * ctx.device.backward_s)
        return gradient, None


class Simulated(nn.Module):
    """A linear classifier of a few averages, whose passes take the device's time."""

    def __init__(self, device: Device, num_classes: int) -> None:
        super().__init__()
        self.device = device
        self.head = nn.Linear(3 * 4 * 4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, 3, H, W)."""
        occupied: Tensor = Pass.apply(images, self.device)  # pyright: ignore[reportAssignmentType]
        return self.head(nn.functional.adaptive_avg_pool2d(occupied, 4).flatten(1))


def register(device: Device) -> None:
    """Make the architecture known."""

    def build(num_classes: int = 1000) -> nn.Module:
        return Simulated(device, num_classes)

    models.register(models.ModelSpec(ARCHITECTURE, build, (3, SIDE, SIDE), paper="none"))


def decoding(catalog: evaluation.Catalog, threads: int) -> float:
    """Images a second that threads decode and preprocess, and nothing else."""
    pictures = catalog.open_dataset(DATASET)
    (checkpoint,) = catalog.checkpoints().values()
    prepared = checkpoint.card().preprocessing

    def decode(index: int) -> None:
        prepared(pictures.picture(index))

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, range(len(pictures))))
    return len(pictures) / (time.perf_counter() - start)


def rows(catalog: evaluation.Catalog, device: Device, count: int) -> Iterable[tuple[str, ...]]:
    """Evaluate clean images and PGD-10."""
    alone = [decoding(catalog, threads) for threads in (1, len(os.sched_getaffinity(0)))]
    attack = replace(pgd(10, "last_step"), random_start=True)
    for title, spec in (("clean", specification(None)), (attack.title, specification(attack))):
        before = device.busy_s
        seconds, _ = measure(spec, catalog, torch.device("cpu"))
        busy_s = device.busy_s - before
        bounds = [text for rate in alone for text in (f"{rate:.0f}", percent(min(1, rate * busy_s / count)))]
        yield (title, f"{seconds:.1f}", f"{count / seconds:.0f}", percent(busy_s / seconds), *bounds)


def percent(share: float) -> str:
    """Write a share."""
    return f"{100 * share:.0f} %"


def main() -> None:
    """Read the flags, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=400, help="JPEGs (default 400)")
    parser.add_argument("--forward-ms", type=float, default=FORWARD_MS, help=f"of an image (default {FORWARD_MS})")
    parser.add_argument("--backward-ms", type=float, default=BACKWARD_MS, help=f"of an image (default {BACKWARD_MS})")
    flags = parser.parse_args()
    device = Device(flags.forward_ms / 1000, flags.backward_ms / 1000)
    register(device)
    cores = len(os.sched_getaffinity(0))
    print(
        f"{hardware(torch.device('cpu'))}, {cores} cores, {torch.get_num_threads()} threads of torch {torch.__version__}; "
        f"{flags.images} JPEGs, {flags.forward_ms:g} ms forward and {flags.backward_ms:g} ms back for each image.\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        catalog, _, _ = prepare(Path(folder), ARCHITECTURE, flags.images, torch.device("cpu"))
        header = ("", "seconds", "images/s", "device busy")
        header += ("decoding, one thread, images/s", "at most", f"{cores} threads", "at most")
        print(table(header, [*rows(catalog, device, flags.images)]))


if __name__ == "__main__":
    main()
