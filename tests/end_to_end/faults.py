"""Faults of real processes while they compute a job of many small shards, and what became of the job."""

import math
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from evaluation import Catalog, EvaluationSpec, Report, ShardResult, evaluate, image_rows
from service.jobs.evaluations import Evaluation, ShardStatus
from service.jobs.store import Store
from tests.conftest import without_times
from tests.end_to_end.processes import alive, device_processes, fork_servers, server, wait_for

SHARDS = 120

LONGEST_S = 180.0
"""How long a job may take after a fault, seconds; a device rests for up to a minute when its processes die again and again."""

Runs = dict[int, tuple[int, ShardStatus]]
"""By the id of a shard: how often it was claimed, and its status."""


def job(number: int) -> EvaluationSpec:
    """A job of small shards, on other images for each number."""
    turns = [{"kind": "transform", "name": "rotation", "parameters": {"degrees": 6 * turn}} for turn in range(1, 60)]
    spec = {"images": 30, "selection_seed": number, "conditions": [{"kind": "clean"}, *turns]}
    return EvaluationSpec.model_validate({"models": ["tiny", "twin"], "dataset": "shapes"} | spec)


@dataclass(frozen=True)
class Outcome:
    """What became of a job that met a fault: a row of the table, for one round.

    Attributes:
        lost: shards without a result at the end, and results that were there at the fault and are others at the end.
        doubled: shards that were claimed again after they were finished, and results that are there twice.
        equal: whether the report and its rows are those of an uninterrupted evaluation.
        resume_s: from the fault until a shard that it interrupted is claimed again, or is finished, if its result had been sent.
            Where it interrupted none, any other one.
        new_result_s: from the fault until such a shard is finished.
    """

    lost: int
    doubled: int
    equal: bool
    resume_s: float
    new_result_s: float

    @property
    def harmless(self) -> bool:
        """Whether the fault cost time alone."""
        return not self.lost and not self.doubled and self.equal


class Service:
    """A server on one database, which is started again where a fault ended it.

    Args:
        catalog: its models and data.
        data_dir: where its database is.
    """

    def __init__(self, catalog: Catalog, data_dir: Path) -> None:
        self.catalog, self.data_dir = catalog, data_dir
        self._running, self._standby = ExitStack(), ExitStack()

    def __enter__(self) -> Self:
        self.start()
        self.store = Store.at(self.data_dir / "withstand.db")
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()
        self.end_standby()
        self._running.close()

    def start(self) -> None:
        """Start a server, in place of one that has ended."""
        self._running.close()
        started = server(self.catalog, self.data_dir, self.data_dir / "server.log")
        self.process, self.client = self._running.enter_context(started)

    def start_standby(self) -> None:
        """Start another server on the same database."""
        started = server(self.catalog, self.data_dir, self.data_dir / "standby.log")
        self._standby.enter_context(started)

    def end_standby(self) -> None:
        """Let the server go on, and end the other one, if there is one."""
        self.process.send_signal(signal.SIGCONT)
        self._standby.close()

    def read(self, job_id: str) -> Evaluation:
        """Read a job from the database."""
        found = self.store.evaluation(job_id)
        assert found is not None
        return found

    def wait_for_end(self, job_id: str) -> None:
        """Wait until a job has ended, and say how far it is where it does not."""
        try:
            wait_for(lambda: self.read(job_id).status.final, timeout_s=LONGEST_S)
        except AssertionError as error:
            log = (self.data_dir / "server.log").read_text()[-4_000:]
            stuck = device_processes(self.process.pid)
            raise AssertionError(f"the job stays at {self.read(job_id).progress}; processes {stuck}; {log}") from error

    def runs(self, job_id: str) -> Runs:
        """How often each shard of a job was claimed, and its status."""
        query = "SELECT id, runs, status FROM shards WHERE evaluation_id = ?"
        with closing(sqlite3.connect(self.data_dir / "withstand.db")) as db:
            return {shard: (runs, ShardStatus(status)) for shard, runs, status in db.execute(query, [job_id])}


def kill(pid: int) -> None:
    """kill -9, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_server(service: Service) -> float:
    """kill -9 the server; its device processes end by themselves."""
    orphans, killed_at = device_processes(service.process.pid), time.monotonic()
    kill(service.process.pid)
    service.process.wait()
    wait_for(lambda: not any(alive(each) for each in orphans))
    return killed_at


def kill_device(service: Service) -> float:
    """kill -9 a device process."""
    kill(random.choice(device_processes(service.process.pid)))
    return time.monotonic()


def kill_fork_server(service: Service) -> float:
    """kill -9 the process from which device processes are forked."""
    (found,) = fork_servers(service.process.pid)
    kill(found)
    return time.monotonic()


def kill_both(service: Service) -> float:
    """kill -9 a device process and the server."""
    kill_device(service)
    return kill_server(service)


def let_devices_die(service: Service, seconds: float = 60.0) -> float:
    """kill -9 every device process as soon as it is there, for a while: it dies before it touches a shard."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for pid in device_processes(service.process.pid):
            kill(pid)
        time.sleep(0.01)
    return end


def stop_dispatcher(service: Service) -> float:
    """SIGSTOP the server between two writes: one that is stopped in a write keeps the lock of the database."""
    wait_for(lambda: _stops_between_writes(service))
    return time.monotonic()


def _stops_between_writes(service: Service) -> bool:
    service.process.send_signal(signal.SIGSTOP)
    try:
        with closing(sqlite3.connect(service.data_dir / "withstand.db", timeout=0.5)) as db:
            db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        service.process.send_signal(signal.SIGCONT)
        return False
    return True


def leave(_service: Service) -> None:
    """Do nothing: the server recovers by itself."""


@dataclass(frozen=True)
class Fault:
    """What happens to a job.

    Attributes:
        act: does it, and returns when it was done or, if it lasts, over; seconds as of `time.monotonic`.
        mend: what is done about it.
        prepare: what is done before the job is submitted.
    """

    act: Callable[[Service], float]
    mend: Callable[[Service], None] = leave
    prepare: Callable[[Service], None] = leave


FAULTS: Mapping[str, Fault] = {
    "server killed": Fault(kill_server, mend=Service.start),
    "device process killed": Fault(kill_device),
    "fork server killed": Fault(kill_fork_server),
    "both killed": Fault(kill_both, mend=Service.start),
    "device processes die for 60 s": Fault(let_devices_die),
    "dispatcher stopped, standby": Fault(stop_dispatcher, prepare=Service.start_standby),
}

AT_ONCE = ("server killed", "device process killed", "fork server killed", "both killed")
"""Those that happen at one moment."""


def meet(service: Service, fault: Fault, number: int, *, after: int) -> Outcome:
    """Submit a job, let a fault happen a moment after so many of its shards are finished, and wait for its end."""
    fault.prepare(service)
    job_id = service.client.submit(job(number).model_dump(mode="json"))["id"]
    wait_for(lambda: len(_with(service.runs(job_id), ShardStatus.DONE)) >= after)
    time.sleep(random.uniform(0, 0.05))
    began = fault.act(service)
    before, results = service.runs(job_id), service.store.results(job_id)
    assert _with(before, ShardStatus.PENDING), "the job had all but ended when it met the fault"
    with ThreadPoolExecutor(1) as threads:
        watch = threads.submit(Watch.until_end, service, job_id, before)
        fault.mend(service)
        service.wait_for_end(job_id)
    service.end_standby()
    stored = service.store.results(job_id)
    by_shard = {each.shard: each for each in stored}
    return Outcome(
        lost=SHARDS - len(by_shard) + sum(by_shard.get(each.shard, each) != each for each in results),
        doubled=len(watch.result().claimed_again) + len(stored) - len(by_shard),
        equal=_is_uninterrupted(service, job_id, stored),
        resume_s=watch.result().resumed_at - began,
        new_result_s=watch.result().renewed_at - began,
    )


@dataclass
class Watch:
    """What is seen of a job after a fault; moments are seconds as of `time.monotonic`, infinite until they come.

    Attributes:
        before: its shards at the fault.
        finished: how often each finished shard had been claimed when it was first seen finished.
        claimed_again: finished shards that were claimed again.
        resumed_at: when an interrupted shard was claimed again.
        renewed_at: when one was finished.
    """

    before: Runs
    finished: dict[int, int] = field(default_factory=dict[int, int])
    claimed_again: set[int] = field(default_factory=set[int])
    resumed_at: float = math.inf
    renewed_at: float = math.inf

    @classmethod
    def until_end(cls, service: Service, job_id: str, before: Runs) -> Self:
        """Look at a job again and again until it has ended."""
        watch = cls(before)
        watch._see(before)
        wait_for(lambda: watch._looks_at_the_end_of(service, job_id), timeout_s=LONGEST_S)
        return watch

    def _looks_at_the_end_of(self, service: Service, job_id: str) -> bool:
        ended = service.read(job_id).status.final
        self._see(service.runs(job_id))
        return ended

    def _see(self, runs: Runs) -> None:
        done = _with(runs, ShardStatus.DONE)
        again = {shard for shard, (count, _) in runs.items() if count > self.before[shard][0]} & self._interrupted
        spared = self._interrupted <= done  # their results had been sent before the fault
        if again or spared:
            self.resumed_at = min(self.resumed_at, time.monotonic())
        if again & done or spared:
            self.renewed_at = min(self.renewed_at, time.monotonic())
        self.claimed_again |= {shard for shard, count in self.finished.items() if runs[shard][0] > count}
        self.finished = {shard: runs[shard][0] for shard in done} | self.finished

    @property
    def _interrupted(self) -> set[int]:
        """The shards that were running at the fault; those that were not finished, if none was."""
        return _with(self.before, ShardStatus.RUNNING) or _with(self.before, ShardStatus.PENDING)


def _with(runs: Runs, status: ShardStatus) -> set[int]:
    return {shard for shard, (_, each) in runs.items() if each is status}


def _is_uninterrupted(service: Service, job_id: str, stored: list[ShardResult]) -> bool:
    """Whether the report, and every row of it, are those of the same job that nothing interrupted."""
    shards: list[ShardResult] = []
    plan = service.read(job_id).plan
    expected = evaluate(
        plan.spec, catalog=service.catalog, device="cpu", on_shard=lambda result, *_: shards.append(result)
    )
    report = Report.model_validate(service.client.evaluation(job_id)["report"])
    return without_times(report) == without_times(expected) and image_rows(plan, stored) == image_rows(plan, shards)
