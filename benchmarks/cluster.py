"""The dispatcher and its database, as they are, with devices that only pretend to compute: how many can one dispatcher serve?

    python -m benchmarks.cluster --devices 1 16 64 256 1024
    python -m benchmarks.cluster --database postgresql://user:password@host/name

Prints Markdown. A pretended device takes as long over a shard as it is told, around a mean; some shards take ten times as long, and
some end their process. Everything else is real, in real time: claims, results of 100 images, transactions. The columns:

- share of the devices' time in which they compute, until there are fewer shards than devices, and shards a second until then;
- cores that the dispatcher needs;
- seconds from the first shard to the last, beside the least that is possible with these shards;
- the longest that a client waits for the progress of the evaluation, asking twice a second.

The last line says how many shards a second the dispatcher hands out and stores when devices take no time at all.
"""

import argparse
import heapq
import itertools
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Any

import torch

from benchmarks.pgd import hardware, table
from evaluation import Catalog, EvaluationSpec, Plan, ShardResult
from evaluation.compute.runner import Row
from evaluation.data.classes import ClassMatch
from evaluation.plan import SHARD_IMAGES, Shard
from service.jobs.dispatcher import Dispatcher
from service.jobs.store import Store

STRAGGLERS, SLOWNESS = 0.01, 10.0
"""Share of the shards that take so many times as long."""

FAILURES = 0.002
"""Share of the shards during which the process of their device dies."""

SPREAD = 0.3
"""Of the time that shards take, in units of its mean: the standard deviation of its logarithm, about what zoo models show."""

POLL_S = 0.5

HEADS = ("devices", "s a shard", "shards", "busy", "shards/s", "cores", "s in all", "least s", "poll ms")


def plan_of(shards: int, number: int = 0) -> Plan:
    """A plan of so many shards of one clean condition."""
    spec = EvaluationSpec(models=("pretended",), dataset="pretended")
    return Plan(
        id=f"{number:016x}",
        spec=spec,
        images=shards * SHARD_IMAGES,
        classes=10,
        matches={"pretended": ClassMatch(rule="name", logits=tuple(range(10)), model_classes=10)},
        dataset_sha256=f"{number:064x}",
        model_sha256={"pretended": "0" * 64},
    )


def result_of(shard: Shard, seconds: float) -> ShardResult:
    """What a device would send: a row for each image."""
    rows = (
        Row(
            index=index,
            label=index % 10,
            clean_prediction=index % 9,
            clean_confidence=0.75,
            prediction=index % 9,
            confidence=0.5,
            rank=0,
        )
        for index in range(shard.start, shard.stop)
    )
    return ShardResult(shard=shard, rows=tuple(rows), images_forwarded=shard.images, seconds=seconds)


class Clock:
    """A thread that does things at their times, however many wait."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._changed, self._order = Condition(), itertools.count()
        Thread(target=self._run, name="clock", daemon=True).start()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something later."""
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), action))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                _, _, action = heapq.heappop(self._due)
            action()


@dataclass
class Pretended(Executor):
    """A device that takes its time, and computes nothing.

    Attributes:
        clock: ends its shards.
        draw: how long the next shard takes, seconds; below 0, after how long the process dies.
        spans: when it began and ended each shard, as of `time.monotonic`.
    """

    clock: Clock
    draw: Callable[[], float]
    spans: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Begin a shard, which is named by the work among the arguments."""
        call: Future[Any] = Future()
        call.set_running_or_notify_cancel()
        kwargs["on_progress"](0, 1)  # it has begun
        seconds, began, shard = self.draw(), time.monotonic(), args[1].shard

        def end() -> None:
            self.spans.append((began, time.monotonic()))
            if seconds < 0:
                call.set_exception(BrokenProcessPool("the process died"))
            else:
                call.set_result(result_of(shard, seconds))

        self.clock.after(abs(seconds), end)
        return call


@dataclass(frozen=True)
class Job:
    """An evaluation of so many shards, on so many devices that take so many seconds over each on average."""

    devices: int
    shard_s: float
    shards: int
    number: int

    def pretended(self) -> dict[str, Pretended]:
        """Its devices."""
        draw, clock = random.Random(self.number), Clock()  # noqa: S311

        def lasting() -> float:
            seconds = self.shard_s * draw.lognormvariate(0, SPREAD)
            fate = draw.random()
            if fate < FAILURES:
                return -seconds * draw.random()
            return seconds * (SLOWNESS if fate < FAILURES + STRAGGLERS else 1)

        return {f"device:{index}": Pretended(clock, lasting) for index in range(self.devices)}


@dataclass(frozen=True)
class Outcome:
    """What came of a job: the time for which each device was busy, from and until, and what the dispatcher took; seconds."""

    job: Job
    began: float
    spans: Sequence[tuple[float, float]]
    cpu_s: float
    poll_s: float

    @property
    def total_s(self) -> float:
        """From the submission to the last shard."""
        return max(end for _, end in self.spans) - self.began

    @property
    def row(self) -> tuple[str, ...]:
        """A row of the table."""
        starts, job = sorted(start for start, _ in self.spans), self.job
        until = starts[-job.devices]  # from then on there are fewer shards than devices
        busy = sum(max(0.0, min(end, until) - start) for start, end in self.spans)
        ended = sum(end <= until for _, end in self.spans)
        lengths = [end - start for start, end in self.spans]
        return (
            f"{job.devices:,}",
            f"{job.shard_s:g}",
            f"{job.shards:,}",
            f"{100 * busy / (job.devices * (until - self.began)):.1f} %",
            f"{ended / (until - self.began):.1f}",
            f"{self.cpu_s / self.total_s:.2f}",
            f"{self.total_s:.1f}",
            f"{max(sum(lengths) / job.devices, *lengths):.1f}",
            f"{1000 * self.poll_s:.0f}",
        )


def run(database: Path | str, job: Job) -> Outcome:
    """Run an evaluation to its end."""
    pretended, plan = job.pretended(), plan_of(job.shards, job.number)
    with closing(Store.at(database)) as store, tempfile.TemporaryDirectory() as folder:
        dispatcher = Dispatcher(store, Catalog((Path(folder),), (Path(folder),)), lambda: pretended)
        dispatcher.start()
        if not dispatcher.active.wait(30):
            raise RuntimeError(f"another dispatcher has the database {database}")
        clock = time.pthread_getcpuclockid(_thread("dispatcher"))
        cpu_s, began = time.clock_gettime(clock), time.monotonic()
        store.submit(plan)
        dispatcher.wake()
        poll_s = _longest_poll(store, plan)
        cpu_s = time.clock_gettime(clock) - cpu_s
        dispatcher.stop()
    return Outcome(job, began, [span for each in pretended.values() for span in each.spans], cpu_s, poll_s)


def _thread(name: str) -> int:
    return next(each.ident for each in threading.enumerate() if each.name == name and each.ident is not None)


def _longest_poll(store: Store, plan: Plan) -> float:
    """Ask for the progress of an evaluation until it has ended; returns the longest wait, in seconds."""
    longest, never = 0.0, Event()
    while True:
        began = time.perf_counter()
        found = store.evaluation(plan.id)
        longest = max(longest, time.perf_counter() - began)
        if found is None or found.status.final:
            return longest
        never.wait(POLL_S)


def main() -> None:
    """Read the flags, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 16, 64, 256, 1024])
    parser.add_argument("--shard-seconds", type=float, nargs="+", default=[1.0, 10.0], help="means (default 1 10)")
    parser.add_argument("--rounds", type=float, default=5, help="shards for each device (default 5)")
    parser.add_argument("--database", help="URL of an empty PostgreSQL database; otherwise a new SQLite file")
    flags = parser.parse_args()
    number = itertools.count(time.time_ns())
    with tempfile.TemporaryDirectory() as folder:
        database = flags.database or Path(folder) / "withstand.db"
        print(f"{hardware(torch.device('cpu'))}, {'PostgreSQL' if flags.database else 'SQLite'}\n")
        jobs = [
            Job(devices, seconds, max(8, int(flags.rounds * devices)), next(number))
            for seconds in flags.shard_seconds
            for devices in flags.devices
        ]
        print(table(HEADS, [run(database, each).row for each in jobs]))
        rates = [2_000 / run(database, Job(16, 0.0, 2_000, next(number))).total_s for _ in range(3)]
        print(f"Devices that take no time: {statistics.median(rates):.0f} shards a second, of three rounds.")


if __name__ == "__main__":
    main()
