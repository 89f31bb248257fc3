"""Where shards are computed: one process for each device. Executors own nothing durable."""

import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, InvalidStateError, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any, ParamSpec, TypeVar

import torch
from pebble import ProcessExpired, ProcessPool

from common.cores import cores, give_way
from common.float32 import set_float32
from common.processes import end_with_parent
from evaluation import Catalog, ShardResult, best_device
from evaluation.compute.progress import OnProgress
from evaluation.results.protocol import Work
from evaluation.worker import Worker
from service.jobs.failures import ShardError, describe
from service.jobs.fork_server import CONTEXT, start_fork_server
from service.logs import LogFormat, write_log_as

MAX_CPU_PROCESSES = 4
"""Most processes on a CPU: with one core each they do the most work, but each holds a model and a batch with its gradient."""

CHECK_S = 1.0
"""How often is looked whether the process pool of a call is still there, seconds."""

P = ParamSpec("P")
T = TypeVar("T")


def available_devices() -> list[str]:
    """Name every GPU; where there is none, a share of the CPU for each process that is worth having."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return gpus or [f"cpu:{index}" for index in range(min(cores(), MAX_CPU_PROCESSES))]


class DeviceExecutor(Executor):
    """Runs calls one at a time in a process of its own, which the first one starts; a cancelled call, or a time-out, kills it.

    Args:
        device: such as "cpu", "cpu:1" or "cuda:1"; the process sees no other GPU.
        timeout_s: longest run of a call, seconds.
        threads: torch threads of the process; 0 leaves the choice to torch.
        log_format: how the process writes its log.
    """

    def __init__(self, device: str, *, timeout_s: float, threads: int = 0, log_format: LogFormat = "text") -> None:
        self._log_format: LogFormat = log_format
        self._device, self._threads = device, threads
        self._timeout_s = timeout_s
        self._pool: ProcessPool | None = None
        self._last: Future[Any] | None = None
        self._ended = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule a call; both it and its arguments must be picklable.

        Raises:
            RuntimeError: the executor was shut down.
            BrokenProcessPool: the process could not be started, or died when it was.
        """
        if self._ended:
            raise RuntimeError("the executor was shut down")
        pool = self._running_pool()
        try:
            call = self._last = pool.schedule(fn, args=args, kwargs=kwargs, timeout=self._timeout_s)
        except RuntimeError as error:
            raise BrokenProcessPool(str(error)) from error
        Thread(target=_end_with_pool, args=(call, pool), name="call", daemon=True).start()
        return call

    def _running_pool(self) -> ProcessPool:
        if self._pool is not None and (
            _died(self._last) or not self._pool.active
        ):  # inactive: it died with nothing to do
            self._pool.stop()
            self._pool.join()
            self._pool = None
        self._pool = self._pool or self._new_pool()
        return self._pool

    def _new_pool(self) -> ProcessPool:
        start_fork_server()
        begin = (self._device, self._threads, self._log_format)
        return ProcessPool(max_workers=1, initializer=_enter_process, initargs=begin, context=CONTEXT)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the process, after its calls are done or at once."""
        self._ended = True
        if self._pool is None:
            return
        if cancel_futures:
            self._pool.stop()
        else:
            self._pool.close()
        if wait:
            self._pool.join()


def _died(call: Future[Any] | None) -> bool:
    """Whether the process died in a call: it may have held a lock of its pool, and the next one would wait two minutes for it."""
    return call is not None and call.done() and not call.cancelled() and isinstance(call.exception(), ProcessExpired)


def _end_with_pool(call: Future[Any], pool: ProcessPool) -> None:
    """Let a call fail that its pool has forgotten: one that comes at the moment at which the pool breaks is pending for ever."""
    while pool.active:
        if wait([call], CHECK_S).done:
            return
    if not wait([call], CHECK_S).done:  # the pool ends the calls it knows of by itself
        with suppress(InvalidStateError):
            call.set_exception(BrokenProcessPool("the pool broke before it knew of the call"))


def _enter_process(device: str, threads: int, log_format: LogFormat) -> None:
    end_with_parent()
    if device.startswith("cuda:"):
        os.environ["CUDA_VISIBLE_DEVICES"] = device.removeprefix("cuda:")
    if device.startswith("cpu"):
        give_way()  # to predictions, which have the same cores
    set_up(threads, log_format)


def set_up(threads: int, log_format: LogFormat) -> None:
    """Prepare a process that computes shards; see `DeviceExecutor`."""
    write_log_as(log_format)
    if threads:
        torch.set_num_threads(threads)
    set_float32("ieee")


@dataclass(frozen=True)
class ProgressFile:
    """A small file in which the process that runs a shard writes how far it is; it need not be there yet."""

    path: Path

    def write(self, done: float, total: int) -> None:
        """Write the images that are done, those of a batch in parts, of how many.

        Where that fails, as on a full disk, the shard goes on without it.
        """
        with suppress(OSError):
            self.path.write_text(f"{done} {total}")

    @property
    def exists(self) -> bool:
        """Whether the shard has begun."""
        return self.path.exists()

    def read(self) -> float:
        """Read the share that is done, 0 to 1."""
        try:
            done, total = map(float, self.path.read_text().split())
        except (FileNotFoundError, ValueError):  # nothing is written yet, or it is being written
            return 0.0
        return done / total


def compute(
    catalog: Catalog,
    work: Work,
    *,
    side_by_side: int = 1,
    on_progress: OnProgress = lambda done, total: None,
) -> ShardResult:
    """Run a shard on this process's device; see `Worker.run`.

    Raises:
        ShardError: what the worker raised, described: some errors cannot be sent to another process.
    """
    on_progress(0, work.shard.images)  # from here on, what ends this process may be the shard
    try:
        return _worker().run(catalog, work, side_by_side=side_by_side, on_progress=on_progress)
    except Exception as error:
        raise ShardError(describe(error)) from None


@cache
def _worker() -> Worker:
    return Worker(best_device())
