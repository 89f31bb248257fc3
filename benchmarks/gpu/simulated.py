"""How busy an evaluation keeps a device that computes by itself, shown without one.

    python -m benchmarks.gpu.simulated
    python -m benchmarks.gpu.simulated --images 1000 --forward-ms 0.5 --backward-ms 1

The device is simulated: a pass takes a fixed time for each image, during which it uses no core, and one pass runs at a time.
Everything else is a whole evaluation from JPEGs as in benchmarks.gpu.evaluation, three times: on a new data set; again; and after
the decoded pictures were removed, so that they are decoded ahead of the batches. "Busy" is the share of the wall time in which the
device works. "Decoding" are the seconds before the first shard, "waiting" those that the thread that drives the device then waits
for pixels. What a GPU would do beside its passes, the arithmetic of an attack, runs on the CPU here: "in memory" is the share that
the device is busy if the same batches are there already, and nothing but the attack is run. Images are small, 32 x 32 of the
decoded picture, so that this costs little.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import evaluation
import models
from attacks.methods.pgd import PGD
from benchmarks.gpu.evaluation import DATASET, MODEL, attacked, clean, prepare, specification
from benchmarks.pgd import hardware, pgd, table
from evaluation.data.pixel_cache import PixelCache
from evaluation.data.pixels import Ahead
from evaluation.plan import SHARD_IMAGES

ARCHITECTURE, SIDE = "simulated", 32
FORWARD_MS, BACKWARD_MS = 0.1, 0.2
"""Of an image: about what a ResNet-50 takes on an H100."""
MEASURED_S = 1.0
"""For which batches in memory are run at least."""


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


@dataclass
class Clock:
    """Seconds of an evaluation in which the device idles because of pictures."""

    start: float = field(default_factory=time.perf_counter)
    decoding_s: float = 0.0
    waiting_s: float = 0.0

    def on_look(self, done: int, total: int) -> None:
        """Pictures are decoded, until now."""
        del done, total
        self.decoding_s = time.perf_counter() - self.start

    @contextmanager
    def waits(self) -> Generator[None]:
        """Measure how long batches wait for pixels."""
        take = Ahead.take

        def timed(ahead: Ahead, positions: Sequence[int]) -> Tensor:
            start = time.perf_counter()
            taken = take(ahead, positions)
            self.waiting_s += time.perf_counter() - start
            return taken

        with patch.object(Ahead, "take", timed):
            yield


def decoding(catalog: evaluation.Catalog, threads: int) -> float:
    """Images a second that threads decode and preprocess, and nothing else."""
    pictures = catalog.open_dataset(DATASET)
    (checkpoint,) = catalog.checkpoints().values()
    prepared = checkpoint.card().preprocessing

    def decode(index: int) -> None:
        prepared.pixels(pictures.picture(index))

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, range(len(pictures))))
    return len(pictures) / (time.perf_counter() - start)


def in_memory(catalog: evaluation.Catalog, device: Device, attack: PGD | None, images: Tensor, labels: Tensor) -> float:
    """Share of the time that the device is busy with batches that are there already."""
    roles = catalog.load_folded(MODEL, "cpu", "float32")
    call = (
        partial(clean, roles, images) if attack is None else partial(attacked, attack, "float32", roles, images, labels)
    )
    call()
    before, start = device.busy_s, time.perf_counter()
    while time.perf_counter() - start < MEASURED_S:
        call()
    return (device.busy_s - before) / (time.perf_counter() - start)


def rows(folder: Path, device: Device, count: int) -> Iterable[tuple[str, ...]]:
    """Evaluate clean images and PGD-10, each on a new data set, again, and without the decoded pictures."""
    attack = replace(pgd(10, "last_step"), random_start=True)
    for title, choice in (("clean", None), (attack.title, attack)):
        (case := folder / title).mkdir()
        plain, images, labels = prepare(case, ARCHITECTURE, count, torch.device("cpu"))
        batch = torch.arange(min(count, SHARD_IMAGES)) % len(images)
        alone = percent(in_memory(plain, device, choice, images[batch], labels[batch]))
        for run, cache in (("first run", "pixels"), ("again", "pixels"), ("pixels removed", "others")):
            catalog = replace(plain, notes=case / "notes", pixel_cache=PixelCache(case / cache))
            before, clock = device.busy_s, Clock()
            with clock.waits():
                evaluation.evaluate(specification(choice), catalog=catalog, device="cpu", on_look=clock.on_look)
            seconds, busy_s = time.perf_counter() - clock.start, device.busy_s - before
            waits = (f"{clock.decoding_s:.2f}", f"{clock.waiting_s:.2f}")
            yield (
                f"{title}, {run}",
                f"{seconds:.2f}",
                f"{count / seconds:.0f}",
                percent(busy_s / seconds),
                alone,
                *waits,
            )


def percent(share: float) -> str:
    """Write a share."""
    return f"{100 * share:.0f} %"


def main() -> None:
    """Read the flags, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=1000, help="JPEGs (default 1000)")
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
    header = ("", "seconds", "images/s", "device busy", "in memory", "decoding, s", "waiting, s")
    with tempfile.TemporaryDirectory() as folder:
        found = [*rows(Path(folder), device, flags.images)]
        case = Path(folder) / "clean"
        catalog = evaluation.Catalog((case / "models",), (case,))
        rates = [decoding(catalog, threads) for threads in (1, cores)]
        print(f"Decoding alone: {rates[0]:.0f} images/s with one thread, {rates[1]:.0f} with {cores}.\n")
        print(table(header, found))


if __name__ == "__main__":
    main()
