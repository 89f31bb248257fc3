"""Faults of real processes while they compute a job of many small shards, and what became of the job."""

import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from evaluation import Catalog, EvaluationSpec, Report, ShardResult, evaluate, image_rows
from service.jobs.evaluations import Evaluation, ShardStatus
from service.jobs.store import Store
from tests.conftest import without_times
from tests.end_to_end.processes import alive, device_processes, server, wait_for

SHARDS = 120


def job(number: int) -> EvaluationSpec:
    """A job of small shards, on other images for each number."""
    turns = [{"kind": "transform", "name": "rotation", "parameters": {"degrees": 6 * turn}} for turn in range(1, 60)]
    spec = {"images": 30, "selection_seed": number, "conditions": [{"kind": "clean"}, *turns]}
    return EvaluationSpec.model_validate({"models": ["tiny", "twin"], "dataset": "shapes"} | spec)


@dataclass(frozen=True)
class Outcome:
    """What became of a job that met a fault.

    Attributes:
        lost: results that were there at the fault and are missing or others at the end, and shards that were never finished.
        doubled: shards that were finished at the fault and were run again, and those with two results.
        equal: whether the report and its rows are those of an uninterrupted evaluation.
        resume_s: from the fault until a shard is started again.
        first_result_s: from the fault until there is a new result.
    """

    lost: int
    doubled: int
    equal: bool
    resume_s: float
    first_result_s: float

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
            wait_for(lambda: self.read(job_id).status.final)
        except AssertionError as error:
            log = (self.data_dir / "server.log").read_text()[-4_000:]
            stuck = device_processes(self.process.pid)
            raise AssertionError(f"the job stays at {self.read(job_id).progress}; processes {stuck}; {log}") from error

    def runs(self, job_id: str) -> dict[int, tuple[int, bool]]:
        """How often each shard of a job was started, and whether it is finished."""
        query = "SELECT id, runs, status FROM shards WHERE evaluation_id = ?"
        with closing(sqlite3.connect(self.data_dir / "withstand.db")) as db:
            return {shard: (runs, status == ShardStatus.DONE) for shard, runs, status in db.execute(query, [job_id])}


def kill(pid: int) -> None:
    """kill -9, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_server(service: Service) -> None:
    """kill -9 the server; its device processes end by themselves."""
    orphans = device_processes(service.process.pid)
    kill(service.process.pid)
    service.process.wait()
    wait_for(lambda: not any(alive(each) for each in orphans))


def kill_device(service: Service) -> None:
    """kill -9 a device process."""
    kill(random.choice(device_processes(service.process.pid)))


def kill_both(service: Service) -> None:
    """kill -9 a device process and the server."""
    kill_device(service)
    kill_server(service)


def let_devices_die(service: Service, seconds: float = 60.0) -> None:
    """kill -9 every device process as soon as it is there, for a while: it dies before it touches a shard."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for pid in device_processes(service.process.pid):
            kill(pid)
        time.sleep(0.01)


def stop_dispatcher(service: Service) -> None:
    """SIGSTOP the server beside a standby."""
    service.start_standby()
    service.process.send_signal(signal.SIGSTOP)


def leave(_service: Service) -> None:
    """Do nothing: the server recovers by itself."""


Act = Callable[[Service], None]

FAULTS: Mapping[str, tuple[Act, Act]] = {
    "server killed": (kill_server, Service.start),
    "device process killed": (kill_device, leave),
    "both killed": (kill_both, Service.start),
    "device processes die for 60 s": (let_devices_die, leave),
    "dispatcher stopped, standby": (stop_dispatcher, leave),
}
"""What happens, and what is done about it."""

AT_ONCE = ("server killed", "device process killed", "both killed")
"""Those that happen at one moment."""


def meet(service: Service, fault: str, number: int, *, after: int) -> Outcome:
    """Submit a job, let a fault happen a moment after so many of its shards are finished, and wait for its end."""
    act, mend = FAULTS[fault]
    job_id = service.client.submit(job(number).model_dump(mode="json"))["id"]
    wait_for(lambda: _finished(service.runs(job_id)) >= after)
    time.sleep(random.uniform(0, 0.05))
    act(service)
    began, before, results = time.monotonic(), service.runs(job_id), service.store.results(job_id)
    with ThreadPoolExecutor(2) as threads:
        started, renewed = (
            threads.submit(_seconds_until_more, service, job_id, count, before) for count in (_started, _finished)
        )
        mend(service)
        service.wait_for_end(job_id)
    service.end_standby()
    ended, stored = service.runs(job_id), service.store.results(job_id)
    return Outcome(
        lost=sum(each not in stored for each in results) + SHARDS - _finished(ended),
        doubled=sum(ended[each][0] - runs for each, (runs, done) in before.items() if done) + len(stored) - SHARDS,
        equal=_is_uninterrupted(service, job_id, stored),
        resume_s=started.result() - began,
        first_result_s=renewed.result() - began,
    )


Runs = dict[int, tuple[int, bool]]


def _started(runs: Runs) -> int:
    return sum(count for count, _ in runs.values())


def _finished(runs: Runs) -> int:
    return sum(done for _, done in runs.values())


def _seconds_until_more(service: Service, job_id: str, count: Callable[[Runs], int], before: Runs) -> float:
    """The moment at which more is counted than before."""
    wait_for(lambda: count(service.runs(job_id)) > count(before) or service.read(job_id).status.final)
    return time.monotonic()


def _is_uninterrupted(service: Service, job_id: str, stored: list[ShardResult]) -> bool:
    """Whether the report, and every row of it, are those of the same job that nothing interrupted."""
    shards: list[ShardResult] = []
    plan = service.read(job_id).plan
    expected = evaluate(
        plan.spec, catalog=service.catalog, device="cpu", on_shard=lambda result, *_: shards.append(result)
    )
    report = Report.model_validate(service.client.evaluation(job_id)["report"])
    return without_times(report) == without_times(expected) and image_rows(plan, stored) == image_rows(plan, shards)
