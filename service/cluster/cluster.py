"""The devices of a Ray cluster as executors. Ray itself is spoken to by a process of its own."""

import itertools
import logging
import multiprocessing
import os
import pickle
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, ParamSpec, TypeVar

from evaluation import Catalog, Plan
from evaluation.compute.runner import OnProgress
from service.cluster.calls import (
    Advanced,
    Answer,
    Cancel,
    Demand,
    Devices,
    Failed,
    Outcome,
    Request,
    Submit,
    compute_on_node,
)
from service.cluster.content import ContentError, ContentStore
from service.cluster.files import Files, share
from service.jobs.executors import compute
from service.jobs.failures import NodeLostError
from service.logs import LogFormat
from service.sql.database import StoreError

CONNECT_S = 90.0
"""How long a connection to the cluster may take, seconds."""

SILENCE_S = 20.0
"""How long the process that talks to Ray may say nothing before it counts as hanging, seconds; it says something twice a second."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
"""How long after a connection was lost the next one is tried: at first, and at most; twice as long each time."""

KNOCK_S = 2.0
"""How long the head may take to accept a connection, seconds: Ray itself would go on trying for a minute."""

END_S = 5.0
"""How long the process that talks to Ray may take to end, seconds."""

DEMAND_S = 2.0
"""How often the cluster receives how many GPUs would have work, seconds."""

_CHECK_S = 0.25

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class _Call:
    """A call that the cluster runs, and who is told how far it is."""

    future: Future[Any]
    on_progress: OnProgress | None

    def finish(self, error: BaseException | None, value: Any = None) -> None:
        with suppress(InvalidStateError):  # it was cancelled
            if error is None:
                self.future.set_result(value)
            else:
                self.future.set_exception(error)


class RayExecutor(Executor):
    """Runs calls one at a time on one device of a cluster, in a process that stays; a cancelled call, or a time-out, kills it.

    A call stays pending until it has ended, so that it can be cancelled at any time. A keyword `on_progress` stays here, and is
    called as the call advances.
    """

    def __init__(self, device: str, cluster: "RayCluster") -> None:
        self._device, self._cluster = device, cluster

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule a call; both it and its arguments must be picklable. It fails with NodeLostError if the device is lost."""
        future: Future[T] = Future()
        Thread(
            target=self._cluster.send, args=(self._device, future, fn, args, kwargs), name="call", daemon=True
        ).start()
        return future


class RayCluster:
    """Keeps a connection to a cluster, and knows its devices; what is lost with a connection fails with NodeLostError.

    Args:
        address: as `ray.init` takes it: host:port where this machine is a node of the cluster, or ray://host:port.
        store: where nodes pull files from; None if they share the folders of the server.
        cache: a folder on each node for what is pulled and decoded there.
        timeout_s: longest run of a call, seconds.
        log_format: how the processes on the nodes write their logs.
        demand: says how many GPUs the cluster's autoscaler is to provide; processes beyond that end when they have been idle for a
            while. None leaves the cluster as it is.
    """

    def __init__(
        self,
        address: str,
        *,
        store: ContentStore | None,
        cache: Path,
        timeout_s: float,
        log_format: LogFormat = "text",
        demand: Callable[[], int] | None = None,
    ) -> None:
        self._drive_with = (address, timeout_s, log_format)
        self._address, self._cache = address, cache
        self._shared = _Shared(store)
        self._numbers = itertools.count()
        self._lock = Lock()
        self._calls: dict[int, _Call] = {}
        self._outbox: SimpleQueue[Request | None] | None = None
        self._devices: dict[str, RayExecutor] = {}
        self._stopping, self._is_silent = Event(), False
        self._demand = demand
        self._threads: list[Thread] = []

    def executors(self) -> Mapping[str, Executor]:
        """The devices there are now, by name."""
        return self._devices

    def start(self, wanted: Event) -> None:
        """Connect, and stay connected, while an event is set: a standby must not hold what it does not use."""
        self._threads = [Thread(target=self._run, args=(wanted,), name="ray", daemon=True)]
        if self._demand is not None:
            self._threads.append(Thread(target=self._tell, args=(self._demand,), name="ray-demand", daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Disconnect; the processes on the nodes end."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def send(
        self,
        device: str,
        future: Future[Any],
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """Make what a call needs available to the nodes, and send it; whatever goes wrong is the future's error."""
        on_progress = kwargs.pop("on_progress", None)
        call = _Call(future, on_progress)
        try:
            if function is compute:
                function, args = compute_on_node, self._shared.arguments(self._cache, *args)
            packed = pickle.dumps((function, args, kwargs, on_progress is not None))
        except Exception as error:
            call.finish(error)
            return
        number = next(self._numbers)
        with self._lock:
            outbox = self._outbox
            if outbox is None:
                call.finish(NodeLostError(f"there is no connection to the Ray cluster at {self._address}"))
                return
            self._calls[number] = call
            outbox.put(Submit(number, device, packed))
        future.add_done_callback(lambda done: outbox.put(Cancel(number)) if done.cancelled() else None)

    def _run(self, wanted: Event) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            if not wanted.wait(_CHECK_S):
                continue
            try:
                if self._listens() and self._connect(lambda: wanted.is_set() and not self._stopping.is_set()):
                    pause_s = FIRST_PAUSE_S
            except Exception:  # a system that can start no process now may do so later
                _log.exception("the Ray cluster at %s cannot be connected to", self._address)
            self._stopping.wait(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    def _tell(self, demand: Callable[[], int]) -> None:
        """Tell the cluster again and again how many GPUs would have something to do."""
        while not self._stopping.wait(DEMAND_S):
            with suppress(StoreError):  # while the database is away, the cluster stays as it is
                request = Demand(demand())
                with self._lock:
                    if self._outbox is not None:
                        self._outbox.put(request)

    def _listens(self) -> bool:
        """Whether something listens at the head's address, if it names one."""
        host, _, port = self._address.removeprefix("ray://").rpartition(":")
        if not port.isdecimal():
            return True
        try:
            socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()
        except OSError as error:
            if not self._is_silent:
                _log.warning("the Ray cluster at %s does not answer and is tried again: %s", self._address, error)
            self._is_silent = True
        else:
            self._is_silent = False
        return not self._is_silent

    def _connect(self, wanted: Callable[[], bool]) -> bool:
        """Have a process talk to Ray as long as it is wanted and answers; returns whether it ever did."""
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_drive, args=(there, *self._drive_with), name="ray", daemon=True)
        process.start()
        there.close()
        outbox: SimpleQueue[Request | None] = SimpleQueue()
        writer = Thread(target=_write, args=(outbox, here), name="ray-requests", daemon=True)
        writer.start()
        with self._lock:
            self._outbox = outbox
        try:
            return self._listen(here, wanted)
        finally:
            self._lose_all()
            outbox.put(None)
            if wanted():
                process.kill()
            else:
                writer.join(END_S)
            here.close()
            process.join(END_S)
            process.kill()
            process.join()

    def _listen(self, connection: Connection, wanted: Callable[[], bool]) -> bool:
        answered, heard_at = False, time.monotonic()
        while wanted():
            patience_s = SILENCE_S if answered else CONNECT_S
            if time.monotonic() - heard_at > patience_s:
                _log.warning("the Ray cluster at %s has not answered for %g s", self._address, patience_s)
                break
            try:
                if connection.poll(_CHECK_S):
                    self._handle(connection.recv())
                    answered, heard_at = True, time.monotonic()
            except (EOFError, OSError):
                _log.warning("the connection to the Ray cluster at %s is lost", self._address)
                break
        return answered

    def _handle(self, answer: Answer) -> None:
        if isinstance(answer, Devices):
            self._devices = {name: self._devices.get(name) or RayExecutor(name, self) for name in answer.names}
            return
        with self._lock:
            call = self._calls.get(answer.id) if isinstance(answer, Advanced) else self._calls.pop(answer.id, None)
        if call is None:
            return
        if isinstance(answer, Advanced):
            if call.on_progress is not None:
                call.on_progress(answer.done, answer.total)
        elif isinstance(answer, Failed):
            call.finish(answer.error)
        else:
            outcome = _unpickled(answer.outcome)
            if isinstance(outcome.error, ContentError):
                self._shared.forget()
            call.finish(outcome.error, outcome.value)

    def _lose_all(self) -> None:
        with self._lock:
            lost, self._calls, self._outbox = self._calls, {}, None
        self._devices = {}
        for call in lost.values():
            call.finish(NodeLostError(f"the connection to the Ray cluster at {self._address} is lost"))


class _Shared:
    """What was made available to nodes, by evaluation, so that it is done once for all shards."""

    def __init__(self, store: ContentStore | None) -> None:
        self._store, self._lock = store, Lock()
        self._files: dict[str, Files] = {}

    def arguments(self, cache: Path, catalog: Catalog, work: Any) -> tuple[Files, Path, Any]:
        """Give what `compute_on_node` takes in place of a catalog."""
        plan: Plan = work.plan
        with self._lock:
            if plan.id not in self._files:
                self._files[plan.id] = share(plan, catalog, self._store)
            return self._files[plan.id], cache, work

    def forget(self) -> None:
        """Put everything into the store again that is asked for: something in it is not as it should be."""
        with self._lock:
            self._files.clear()


def _unpickled(outcome: bytes) -> Outcome:
    try:
        return pickle.loads(outcome)  # noqa: S301  from a node, which runs what this server sends
    except Exception as error:
        return Outcome(error=error)


def _write(outbox: SimpleQueue[Request | None], connection: Connection) -> None:
    with suppress(OSError):  # the other end has ended, which the reader notices
        while (request := outbox.get()) is not None:
            connection.send(request)


def _drive(connection: Connection, address: str, timeout_s: float, log_format: LogFormat) -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from service.cluster.driver import drive  # noqa: PLC0415  the server itself does not import Ray, which reads these

    drive(connection, address, timeout_s, log_format)
