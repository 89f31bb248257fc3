"""How busy a GPU is while something runs."""

import shutil
import statistics
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from threading import Event, Thread

import torch

EVERY_S = 0.2
ASKED = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Samples:
    """Percent of the time in which a kernel ran, as the driver counts."""

    percent: list[float] = field(default_factory=list[float])

    @property
    def busy(self) -> str:
        """Their mean, empty without any."""
        return f"{statistics.mean(self.percent):.0f} %" if self.percent else ""


def reader(device: torch.device) -> Callable[[], float] | None:
    """What tells the use of a GPU now, percent; None if nothing does."""
    if device.type != "cuda":
        return None
    if find_spec("pynvml"):
        return lambda: float(torch.cuda.utilization(device))
    if shutil.which(ASKED[0]):
        return lambda: float(subprocess.check_output(ASKED, text=True).splitlines()[device.index or 0])  # noqa: S603
    return None


@contextmanager
def sampled(device: torch.device) -> Generator[Samples]:
    """Sample the use of a device until the block ends."""
    samples, ended, read = Samples(), Event(), reader(device)

    def sample() -> None:
        while read is not None and not ended.wait(EVERY_S):
            samples.percent.append(read())

    thread = Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()
