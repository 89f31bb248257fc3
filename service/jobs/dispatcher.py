"""Hands pending shards to executors and stores their results. One at a time for a database; a second one waits as standby."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import TYPE_CHECKING
from uuid import uuid4

from evaluation import Catalog, ShardResult
from evaluation.results.protocol import Work, is_certain, look_up
from service.jobs.evaluations import Claim
from service.jobs.executors import ProgressFile, compute
from service.jobs.failures import Failure, Fault, failure_of
from service.jobs.queue import Queue
from service.jobs.removal.retention import Retention
from service.jobs.spans import log_fields, record_evaluation, record_shard
from service.jobs.store import Store, SupersededError
from service.jobs.webhooks.sender import Webhooks
from service.metrics import Metrics
from service.sql.database import StoreError

if TYPE_CHECKING:
    from service.sql.database import Lock

POLL_S = 0.5
"""How often the dispatcher looks for work and cancellations that other processes have written, seconds."""

PROGRESS_S = 1.0
"""How often at most the progress of running shards is written to the database, seconds."""

BEAT_S = 2.0
"""How often a dispatcher shows that it is alive, seconds."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
"""How long a device gets no work after its process died without touching a shard: at first, and at most."""

TOGETHER = 32
"""Shards that are handed out, or whose results are stored, in one transaction at most: other writers wait for its end."""

LONGEST_STOP_S = 5.0
"""How long a server that ends waits for its dispatcher, which may hang at a disk or a database, seconds."""

_log = logging.getLogger(__name__)


@dataclass
class _Running:
    """A shard that an executor runs, and the share of it that was done when that was last written down."""

    claim: Claim
    future: Future[ShardResult]
    progress: ProgressFile
    share_done: float = 0.0
    since_ns: int = field(default_factory=time.time_ns)

    @property
    def seconds(self) -> float:
        """For how long its device has been busy with it."""
        return max(0.0, (time.time_ns() - self.since_ns) / 1e9)


@dataclass
class _Device:
    """An executor, and how often in a row its process has died before it touched a shard."""

    executor: Executor
    running: _Running | None = None
    deaths: int = 0
    resumes_at: float = 0.0

    def died(self) -> float:
        """Leave it alone for a while, twice as long each time; returns how long, in seconds."""
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self.deaths)
        self.deaths, self.resumes_at = self.deaths + 1, time.monotonic() + pause
        return pause


class Dispatcher:
    """A thread that is the only one to start and finish shards.

    Whoever holds the lock of the database is the dispatcher, so that a standby takes over at once when it ends. One that is not
    seen for `STALE_S`, such as a stopped process, is replaced too, and can no longer write when it wakes. On taking over, shards
    that were running become pending: that is the whole of crash recovery.

    Args:
        store: where shards come from and results go.
        catalog: where models and data are.
        executors: gives those there are now, by device name, whenever it is asked; each runs one shard at a time. One that is gone
            ends its calls by itself.
        webhooks: are called when evaluations have ended; None calls none.
        retention: how long those are kept; None is for ever.
        metrics: where shards are counted.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        executors: Callable[[], Mapping[str, Executor]],
        webhooks: Webhooks | None = None,
        retention: Retention | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._store = self._dispatching = store
        self._webhooks, self._retention = webhooks, retention or Retention()
        self._metrics = metrics or Metrics()
        self._catalog = catalog
        self._executors = executors
        self._devices: dict[str, _Device] = {}
        self._advanced_at = self._seen_at = 0.0
        self._wake, self._stopping = Event(), Event()
        self._thread = Thread(target=self._run, name="dispatcher", daemon=True)
        self.active = Event()
        """Set while this dispatcher dispatches."""

    def start(self) -> None:
        """Begin, or wait as standby."""
        self._thread.start()

    def stop(self) -> None:
        """End, if it does not take long; shards that are running become pending again when a dispatcher starts."""
        self._stopping.set()
        self.wake()
        self._thread.join(LONGEST_STOP_S)
        if self._thread.is_alive():
            _log.warning("the dispatcher hangs; the server ends without it")

    def wake(self) -> None:
        """Look for work now."""
        self._wake.set()

    def _run(self) -> None:
        database, folder = self._store.database, TemporaryDirectory(prefix="withstand-progress-")
        with folder as path, closing(database.lock()) as lock, database.listening(self.wake):
            trouble = None
            while not self._stopping.is_set():
                try:
                    self._take_turn(lock, Path(path))
                    trouble = None
                except Exception as error:  # a full disk or a locked database must not end the dispatcher
                    if str(error) != trouble:  # said once, however long it lasts
                        _log.exception("the dispatcher will try again")
                    trouble = str(error)
                self._wait()
            self._stand_down()

    def _take_turn(self, lock: "Lock", folder: Path) -> None:
        """As dispatcher, hand out and collect; as standby, look whether there is one."""
        try:
            if not self.active.is_set() and not self._take_over(lock):
                return
            if time.monotonic() - self._seen_at > BEAT_S:
                self._dispatching.beat(locked=lock.take())
                self._seen_at = time.monotonic()
            self._collect()
            self._look_for_devices()
            self._hand_out(folder)
            self._advance()
            for ended in self._dispatching.take_ended_traces():
                record_evaluation(ended)
            if self._webhooks is not None:
                self._webhooks.deliver(self._dispatching)
            self._retention.sweep(self._dispatching)
        except SupersededError as error:
            _log.warning("%s; waiting as standby", error)
            self._stand_down()
            lock.release()

    def _take_over(self, lock: "Lock") -> bool:
        locked = lock.take()
        dispatching = self._store.take_dispatch(locked=locked)
        if dispatching is None:
            if locked:  # whoever dispatches without it may have it
                lock.release()
            return False
        if interrupted := dispatching.recover():
            _log.info("%d shards were interrupted and will be run again", interrupted)
        self._dispatching = dispatching
        self._devices = {}
        Queue(dispatching).forget_devices()
        self._look_for_devices()
        self._seen_at = time.monotonic()
        self.active.set()
        return True

    def _stand_down(self) -> None:
        for device in self._devices.values():
            if device.running is not None:
                device.running.future.cancel()
                device.running = None
        if self.active.is_set():
            with suppress(StoreError):
                self._dispatching.leave_dispatch()
            self.active.clear()

    def _wait(self) -> None:
        self._wake.wait(POLL_S)
        self._wake.clear()

    def _look_for_devices(self) -> None:
        """Take up the devices that have joined, and drop those that are gone once their shards have ended."""
        there = self._executors()
        joined = {name: _Device(executor) for name, executor in there.items() if name not in self._devices}
        gone = [name for name, each in self._devices.items() if name not in there and each.running is None]
        if joined or gone:
            Queue(self._dispatching).change_devices(joined=joined, gone=gone)
            self._devices = {name: each for name, each in (self._devices | joined).items() if name not in gone}

    def _collect(self) -> None:
        running = [each.claim.id for _, each in self._running() if not each.future.done()]
        for unwanted in self._dispatching.unwanted(running) if running else ():
            next(each for _, each in self._running() if each.claim.id == unwanted).future.cancel()
        ended = [(name, each) for name, each in self._running() if each.future.done()]
        for start in range(0, len(ended), TOGETHER):
            self._finish(ended[start : start + TOGETHER])

    def _running(self) -> list[tuple[str, _Running]]:
        """The devices that run a shard, with it."""
        return [(name, device.running) for name, device in self._devices.items() if device.running is not None]

    def _finish(self, ended: Sequence[tuple[str, _Running]]) -> None:
        """Write down together what came of some shards; only then are their devices free."""
        spent: dict[str, float] = defaultdict(float)
        for _, each in ended:
            spent[each.claim.evaluation_id] += each.seconds
        with self._dispatching.writing():
            outcomes = [self._store_outcome(each) for _, each in ended]
            Queue(self._dispatching).spend(spent)
        for (name, each), outcome in zip(ended, outcomes, strict=True):
            self._devices[name].running = None
            self._report(name, each, outcome)

    def _store_outcome(self, each: _Running) -> ShardResult | Failure | None:
        """Store the result or the failure of a shard, and return it; None if nobody asks for it any more."""
        claim = each.claim
        try:
            result = each.future.result()
        except CancelledError:
            return None
        except Exception as error:  # whatever went wrong in the device process
            failure = failure_of(error, started=each.progress.exists)
            self._dispatching.fail(claim.id, failure.message, failure.fault)
            return failure
        stored = self._dispatching.complete(claim, result)
        if is_certain(claim.plan, claim.shard, self._dispatching):
            self._dispatching.skip(claim)
        return result if stored else None

    def _report(self, name: str, each: _Running, outcome: ShardResult | Failure | None) -> None:
        """Log and count what came of a shard, and judge its device by it."""
        claim, fields = each.claim, log_fields(each.claim, name)
        record_shard(claim, each.future, device=name, since_ns=each.since_ns)
        self._metrics.busy_seconds.labels(name).inc(each.seconds)
        if isinstance(outcome, Failure):
            said = (claim.evaluation_id, claim.shard, outcome.message)
            _log.warning("evaluation %s, %s failed: %s", *said, extra=fields)
            self._metrics.shard_failures.labels(outcome.fault.name.lower()).inc()
        elif outcome is not None:
            _log.info("shard is done", extra={**fields, "seconds": outcome.seconds})
            self._count(name, claim, outcome)
        if isinstance(outcome, Failure) and outcome.fault is Fault.DEVICE:
            self._set_aside(name, outcome.message)
        elif outcome is not None:
            self._use_again(name)

    def _count(self, device: str, claim: Claim, result: ShardResult) -> None:
        model, kind = claim.shard.model, claim.plan.spec.conditions[claim.shard.condition].kind
        self._metrics.shard_seconds.labels(model, kind).observe(result.seconds)
        self._metrics.image_passes.labels(model, device).inc(result.images_forwarded)

    def _set_aside(self, name: str, problem: str) -> None:
        device = self._devices[name]
        pause_s = device.died()
        _log.warning("%s gets no work for %g s", name, pause_s)
        Queue(self._dispatching).set_aside(name, deaths=device.deaths, pause_s=pause_s, problem=problem)

    def _use_again(self, name: str) -> None:
        device = self._devices[name]
        if device.deaths:
            device.deaths = 0
            Queue(self._dispatching).use_again(name)

    def _advance(self) -> None:
        """Write down how far running shards are, where that has changed."""
        if time.monotonic() - self._advanced_at < PROGRESS_S:
            return
        changed: dict[int, float] = {}
        for _, each in self._running():
            share = each.progress.read()
            if share != each.share_done:
                changed[each.claim.id] = each.share_done = share
        if changed:
            self._dispatching.advance(changed)
            self._advanced_at = time.monotonic()

    def _hand_out(self, folder: Path) -> None:
        now = time.monotonic()
        free = [name for name, each in self._devices.items() if each.running is None and now >= each.resumes_at]
        while free:
            given = self._claim(free[:TOGETHER])
            for name, (claim, work) in given.items():
                if work is not None:
                    self._devices[name].running = self._start(name, claim, work, folder)
            if len(given) < len(free[:TOGETHER]):
                return
            free = [name for name in free if self._devices[name].running is None]

    def _claim(self, devices: Sequence[str]) -> dict[str, tuple[Claim, Work | None]]:
        """Claim a shard for each device, as long as some wait, with what is left to do for it.

        That is nothing where another evaluation has computed it since it was submitted, or where it is not needed.
        """
        given: dict[str, tuple[Claim, Work | None]] = {}
        with self._dispatching.writing():
            for name in devices:
                claim = self._dispatching.claim(name)
                if claim is None:
                    break
                found = look_up(claim.plan, claim.shard, self._dispatching)
                if isinstance(found, ShardResult):
                    self._dispatching.complete(claim, found)
                elif found is None:
                    self._dispatching.skip(claim)
                given[name] = claim, found if isinstance(found, Work) else None
        return given

    def _start(self, name: str, claim: Claim, work: Work, folder: Path) -> _Running:
        progress = ProgressFile(folder / f"{claim.id}-{uuid4().hex}")
        submit = self._devices[name].executor.submit
        try:
            future = submit(compute, self._catalog, work, side_by_side=len(self._devices), on_progress=progress.write)
        except Exception as error:  # an executor that cannot start anything is a failure of the shard like any other
            future = Future[ShardResult]()
            future.set_exception(error)
        future.add_done_callback(lambda _: self.wake())
        _log.info("shard is handed out", extra=log_fields(claim, name))
        return _Running(claim, future, progress)
