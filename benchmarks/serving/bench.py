"""The bench: pictures and models in a folder, and how a load reaches a server."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

import models
from benchmarks.serving import pictures
from benchmarks.serving.contenders import Contender, Running, Subject, serving
from benchmarks.serving.load import BROKEN, Load, Sample
from benchmarks.serving.null import NULL, write_checkpoint

RESNET18, MINI = "resnet18", "resnet_mini.fashion_mnist"
BROKEN_SHARE = 4
"""Of so many pictures one is broken, where broken ones are sent."""


@dataclass(frozen=True)
class Bench:
    """What all measurements share: the pictures in their folders, how long, how often, which servers."""

    folder: Path
    seconds: float
    rounds: int
    contenders: Sequence[Contender]
    apart: bool = False
    """The load has the last core to itself, and servers the others; otherwise they share all."""

    @property
    def on(self) -> tuple[Sequence[str], Sequence[str]]:
        """How the commands of a server and of a load begin."""
        if not self.apart:
            return (), ()
        *servers, last = map(str, sorted(os.sched_getaffinity(0)))
        return ("taskset", "--cpu-list", ",".join(servers)), ("taskset", "--cpu-list", last)

    def load(
        self,
        running: Running,
        *,
        connections: int | None = None,
        rate: float | None = None,
        mixed: bool = False,
        seconds: float | None = None,
    ) -> Sample:
        """Send a load to a server from another process.

        Args:
            running: the server.
            connections: of a closed loop.
            rate: of an open loop, requests a second.
            mixed: send broken pictures too.
            seconds: measured; by default the bench's.
        """
        load = Load(
            port=running.port,
            path=running.path,
            form=running.contender.form,
            pictures=self.folder / ("mixed" if mixed else "pictures"),
            session=running.session,
            seconds=seconds or self.seconds,
            warm_up_s=min(2.0, self.seconds),
            connections=connections,
            rate=rate,
        )
        answer = run_module("benchmarks.serving.load", text=load.model_dump_json(), on=self.on[1])
        return Sample.model_validate_json(answer)


def run_module(module: str, *arguments: str, text: str = "", on: Sequence[str] = ()) -> str:
    """Run a module in a process of its own, whose command begins with `on`; returns what it prints."""
    command = [*on, sys.executable, "-m", module, *arguments]
    return subprocess.run(command, input=text, text=True, stdout=subprocess.PIPE, check=True).stdout  # noqa: S603


def prepare(folder: Path, count: int) -> None:
    """Write the pictures, with and without broken ones, and the checkpoint that does not come with the project."""
    for name in ("pictures", "mixed", "models"):
        (folder / name).mkdir()
    whole = pictures.jpegs(count)
    for index, data in enumerate(whole):
        (folder / "pictures" / f"{index:02}.jpg").write_bytes(data)
        (folder / "mixed" / f"{index:02}.jpg").write_bytes(data)
    for index, data in enumerate(pictures.broken(whole[: count // (BROKEN_SHARE - 1)])):
        (folder / "mixed" / f"{BROKEN}-{index:02}.jpg").write_bytes(data)
    write_checkpoint(folder / NULL)
    torch.manual_seed(0)
    save_file(models.create(RESNET18, num_classes=1000).state_dict(), folder / "models" / f"{RESNET18}.safetensors")
    card = models.ModelCard(architecture=RESNET18, classes=tuple(f"class {index}" for index in range(1000)))
    (folder / "models" / f"{RESNET18}.json").write_text(card.model_dump_json())


def subject(name: str, folder: Path) -> Subject:
    """Find a model's checkpoint."""
    checkpoints = models.find_checkpoints((models.ZOO, folder / "models", folder / NULL))
    return Subject(name, checkpoints[name].path)


def alternate(bench: Bench, subject: Subject, visit: Callable[[Running], None]) -> None:
    """Start every server in turn, in every round, and do something with it."""
    for _ in range(bench.rounds):
        for contender in bench.contenders:
            with serving(contender, subject, bench.folder, on=bench.on[0]) as running:
                visit(running)
