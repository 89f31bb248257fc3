"""Hands pending shards to executors and stores their results. One at a time for a database; a second one waits as standby."""

import fcntl
import logging
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import TextIO

from evaluation import Catalog, ShardResult
from evaluation.results.protocol import Work, is_certain, look_up
from service.jobs.evaluations import Claim
from service.jobs.executors import ProgressFile, compute, describe
from service.jobs.store import Store

POLL_S = 0.5
"""How often the dispatcher looks for work and cancellations that other processes have written, seconds."""

PROGRESS_S = 1.0
"""How often at most the progress of running shards is written to the database, seconds."""

_log = logging.getLogger(__name__)


@dataclass
class _Running:
    """A shard that an executor runs, and how many of its images were done when that was last written down."""

    claim: Claim
    future: Future[ShardResult]
    progress: ProgressFile
    images_done: int = 0


class Dispatcher:
    """A thread that is the only one to start and finish shards.

    Whoever holds the lock file is the dispatcher. On taking it, shards that were running become pending: that is the whole of crash
    recovery.

    Args:
        store: where shards come from and results go.
        catalog: where models and data are.
        executors: by device name; each runs one shard at a time.
        lock_path: of the lock file beside the database.
    """

    def __init__(self, store: Store, catalog: Catalog, executors: Mapping[str, Executor], lock_path: Path) -> None:
        self._store, self._catalog, self._executors = store, catalog, executors
        self._lock_path = lock_path
        self._running: dict[str, _Running] = {}
        self._advanced_at = 0.0
        self._wake, self._stopping = Event(), Event()
        self._thread = Thread(target=self._run, name="dispatcher", daemon=True)
        self.active = Event()
        """Set while this dispatcher holds the lock."""

    def start(self) -> None:
        """Begin, or wait as standby."""
        self._thread.start()

    def stop(self) -> None:
        """End; shards that are running become pending again when a dispatcher starts."""
        self._stopping.set()
        self.wake()
        self._thread.join()

    def wake(self) -> None:
        """Look for work now."""
        self._wake.set()

    def _run(self) -> None:
        with self._lock_path.open("w") as lock:
            while not self._stopping.is_set():
                if _try_lock(lock):
                    self.active.set()
                    with TemporaryDirectory(prefix="withstand-progress-") as folder:
                        self._dispatch(Path(folder))
                    self.active.clear()
                    return
                self._wait()

    def _dispatch(self, folder: Path) -> None:
        recovered, trouble = False, None
        while not self._stopping.is_set():
            try:
                recovered = recovered or self._recover()
                self._collect()
                self._hand_out(folder)
                self._advance()
                trouble = None
            except Exception as error:  # a full disk or a locked database must not end the dispatcher
                if str(error) != trouble:  # said once, however long it lasts
                    _log.exception("the dispatcher will try again")
                trouble = str(error)
            self._wait()
        for each in self._running.values():
            each.future.cancel()

    def _recover(self) -> bool:
        if interrupted := self._store.recover():
            _log.info("%d shards were interrupted and will be run again", interrupted)
        return True

    def _wait(self) -> None:
        self._wake.wait(POLL_S)
        self._wake.clear()

    def _collect(self) -> None:
        for device, each in list(self._running.items()):
            if not each.future.done():
                if self._store.wanted(each.claim.id):
                    continue
                each.future.cancel()
            self._finish(each.claim, each.future)
            del self._running[device]

    def _finish(self, claim: Claim, future: Future[ShardResult]) -> None:
        try:
            result = future.result()
        except CancelledError:
            return
        except Exception as error:  # whatever went wrong in the device process is the shard's failure
            _log.warning("evaluation %s, %s failed: %s", claim.evaluation_id, claim.shard, describe(error))
            self._store.fail(claim.id, describe(error))
            return
        self._store.complete(claim, result)
        if is_certain(claim.plan, claim.shard, self._store):
            self._store.skip(claim)

    def _advance(self) -> None:
        """Write down how far running shards are, where that has changed."""
        if time.monotonic() - self._advanced_at < PROGRESS_S:
            return
        changed: dict[int, int] = {}
        for each in self._running.values():
            done = int(each.claim.shard.images * each.progress.read())
            if done != each.images_done:
                changed[each.claim.id] = each.images_done = done
        if changed:
            self._store.advance(changed)
            self._advanced_at = time.monotonic()

    def _hand_out(self, folder: Path) -> None:
        for device, executor in self._executors.items():
            if device in self._running:
                continue
            next_work = self._next_work()
            if next_work is None:
                return
            claim, work = next_work
            progress = ProgressFile(folder / str(claim.id))
            future = self._start(executor, work, progress)
            self._running[device] = _Running(claim, future, progress)
            future.add_done_callback(lambda _: self.wake())

    def _next_work(self) -> tuple[Claim, Work] | None:
        """Claim shards until one has to be run; what other evaluations have computed since it was submitted is taken over."""
        while claim := self._store.claim():
            found = look_up(claim.plan, claim.shard, self._store)
            if isinstance(found, Work):
                return claim, found
            if found is None:
                self._store.skip(claim)
            else:
                self._store.complete(claim, found)
        return None

    def _start(self, executor: Executor, work: Work, progress: ProgressFile) -> Future[ShardResult]:
        try:
            return executor.submit(
                compute,
                self._catalog,
                work,
                side_by_side=len(self._executors),
                on_progress=progress.write,
            )
        except Exception as error:  # an executor that cannot start anything is a failure of the shard like any other
            future: Future[ShardResult] = Future()
            future.set_exception(error)
            return future


def _try_lock(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
