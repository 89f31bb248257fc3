"""The process that talks to Ray: it ends, or hangs, with the cluster's head, and the server starts another one."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import ActorDiedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from common.processes import end_with_parent
from evaluation.plan import code_version
from service.cluster.actor import THREADS, Actor
from service.cluster.calls import Advanced, Answer, Cancel, Demand, Devices, Failed, Request, Returned, Submit
from service.jobs.executors import MAX_CPU_PROCESSES
from service.jobs.failures import NodeLostError
from service.logs import LogFormat, write_log_as

LOOK_S = 0.5
"""How often is looked which nodes there are, and how far calls are, seconds."""

LEAVING_S = 3.0
"""How long after the death of a process its node may turn out to be gone too, seconds: one that leaves ends its processes first."""

UNREACHABLE_S = 30.0
"""How long a process may not be reached before it is given up, seconds."""

START_S = 300.0
"""How long the start of a process may take, seconds: another user of the cluster may have its GPU."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""How long after a process that could not be started the next one is: at first, and at most."""

IDLE_S = 30.0
"""How long a process that there is no demand for stays without a call, seconds: the next evaluation may come soon."""

HEAD = {"node:__internal_head__": 0.001}
"""What Ray reserves for a task that runs on the head."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where an actor runs.

    Attributes:
        name: of the device.
        node_id: of the node.
        on_gpu: whether it has a GPU.
        cores: of the CPU that it has, if it has no GPU.
    """

    name: str
    node_id: str
    on_gpu: bool
    cores: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """What Ray reserves for it, and where."""
        resources = {"num_gpus": 1, "num_cpus": 0} if self.on_gpu else {"num_cpus": self.cores}
        here = NodeAffinitySchedulingStrategy(self.node_id, soft=False)
        return {**resources, "scheduling_strategy": here, "max_restarts": 0, "max_task_retries": 0}


def places_on(node: Mapping[str, Any]) -> Iterator[Place]:
    """Name every GPU of a node; where it has none, a share of its CPU for each process that is worth having."""
    resources, node_id = node["Resources"], node["NodeID"]
    machine = f"ray:{node['NodeManagerAddress']}-{node_id[:6]}"
    gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    for index in range(gpus):
        yield Place(f"{machine}/cuda:{index}", node_id, on_gpu=True)
    shares = 0 if gpus else min(cores, MAX_CPU_PROCESSES)
    for index in range(shares):
        yield Place(f"{machine}/cpu:{index}", node_id, on_gpu=False, cores=cores // shares)


@dataclass
class Slot:
    """A place, its actor, and the call that it runs or will run; `usable` until an actor cannot be started."""

    place: Place
    actor: Any = None
    ready: bool = False
    usable: bool = False
    failed_starts: int = 0
    starts_at: float = 0.0
    call: Submit | None = None
    ends_at: float | None = None
    death: Exception | None = None
    died_at: float = 0.0
    busy_at: float = 0.0
    asked: bool = False

    def die(self, error: Exception) -> None:
        """Note that the actor cannot be reached; whether its node is gone is seen later."""
        if self.death is None:
            self.died_at = time.monotonic()
        if not isinstance(self.death, ActorDiedError):
            self.death = error


def drive(connection: Connection, address: str, timeout_s: float, log_format: LogFormat) -> None:
    """Connect to a cluster and run calls on it until the server closes the connection; the main function of the process."""
    end_with_parent()
    write_log_as(log_format)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except Exception as error:  # a wrong token, another version, a head that is not there
        _log.error("cannot connect to the Ray cluster at %s: %s", address, error)
        return
    Driver(connection, timeout_s, log_format).run()
    ray.shutdown()


class Driver:
    """Keeps one actor in each place, and runs calls on them.

    Args:
        connection: to the server.
        timeout_s: longest run of a call, seconds.
        log_format: how the actors write their logs.
    """

    def __init__(self, connection: Connection, timeout_s: float, log_format: LogFormat) -> None:
        self._connection, self._sending = connection, Lock()
        self._timeout_s, self._log_format = timeout_s, log_format
        self._events: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._slots: dict[str, Slot] = {}
        self._demand: int | None = None
        self._ended = False

    def run(self) -> None:
        """Work until the connection is closed."""
        Thread(target=self._receive, name="receive", daemon=True).start()
        looks_at = 0.0
        while not self._ended:
            if time.monotonic() >= looks_at:
                self._look()
                looks_at = time.monotonic() + LOOK_S
            with suppress(Empty):
                self._events.get(timeout=max(0.0, looks_at - time.monotonic()))()

    def _receive(self) -> None:
        try:
            while True:
                request: Request = self._connection.recv()
                self._events.put(partial(self._handle, request))
        except (EOFError, OSError):
            self._events.put(self._end)

    def _handle(self, request: Request) -> None:
        match request:
            case Submit():
                self._submit(request)
            case Cancel():
                self._cancel(request)
            case Demand():
                self._request_gpus(request.gpus)

    def _end(self) -> None:
        self._ended = True

    def _answer(self, answer: Answer) -> None:
        with self._sending, suppress(OSError):  # the server is gone, and this process ends
            self._connection.send(answer)

    def _look(self) -> None:
        """See which nodes there are, and whether a call has run too long or an actor has died."""
        nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        for name, slot in [*self._slots.items()]:
            if slot.place.node_id not in nodes:
                del self._slots[name]
                self._fail(slot, NodeLostError(f"{name} left the cluster"))
        for place in (place for node in nodes.values() for place in places_on(node)):
            if place.name not in self._slots:
                self._slots[place.name] = Slot(place)
        for slot in self._slots.values():
            self._look_at(slot)
        self._release_idle()
        self._answer(Devices(tuple(name for name, slot in self._slots.items() if slot.usable)))

    def _look_at(self, slot: Slot) -> None:
        now = time.monotonic()
        if slot.call is not None or not slot.ready:
            slot.busy_at = now
        if slot.actor is None and now >= slot.starts_at and (self._demand is None or self._excess < 0):
            self._start(slot)
        elif slot.death is not None:
            self._judge(slot, slot.death, now - slot.died_at)
        elif slot.ends_at is not None and now > slot.ends_at:
            self._fail(slot, TimeoutError())
            self._replace(slot)
        elif slot.ready:
            self._ask(slot)
        elif slot.actor is not None and now - slot.starts_at > START_S:
            self._give_up(
                slot, f"it did not start within {START_S:g} s; does another user of the cluster have its place?"
            )

    def _request_gpus(self, gpus: int) -> None:
        """Have Ray's autoscaler make room for so many GPUs, which it does not learn from actors: they are made where nodes are."""
        if gpus == self._demand:
            return
        self._demand = gpus
        on_head: Any = ray.remote(num_cpus=0, resources=HEAD)(request_resources)
        asked = on_head.remote(bundles=[{"GPU": 1}] * gpus)
        asked.future().add_done_callback(_report_refusal)

    @property
    def _excess(self) -> int:
        """How many more actors there are than devices that would have something to do."""
        return sum(slot.actor is not None for slot in self._slots.values()) - (self._demand or 0)

    def _release_idle(self) -> None:
        """End actors that nothing is left for: Ray's autoscaler removes nodes that are not in use."""
        if self._demand is None:
            return
        last_use = time.monotonic() - IDLE_S
        idle = [slot for slot in self._slots.values() if slot.ready and slot.call is None and slot.busy_at < last_use]
        for slot in idle[: max(0, self._excess)]:
            self._end_actor(slot)
            slot.usable = False

    def _judge(self, slot: Slot, death: Exception, since_s: float) -> None:
        """Replace an actor that has died, once it is known that its node has not."""
        name = slot.place.name
        if isinstance(death, ActorDiedError):
            if since_s > LEAVING_S:
                _log.warning("the process of %s has died: %s", name, death)
                self._fail(slot, BrokenProcessPool(str(death)))
                self._replace(slot)
        elif since_s > UNREACHABLE_S:
            self._fail(slot, NodeLostError(f"{name} cannot be reached: {death}"))
            self._replace(slot)
        else:
            self._ask(slot)

    def _ask(self, slot: Slot) -> None:
        """Ask how far an actor is, unless it has yet to answer."""
        if not slot.asked:
            slot.asked = True
            self._when_done(slot, slot.actor.progress.remote(), self._advanced)

    def _start(self, slot: Slot) -> None:
        place = slot.place
        decorate: Callable[[type[Actor]], Any] = ray.remote(concurrency_groups=THREADS)  # pyright: ignore[reportCallIssue]
        remote = decorate(Actor).options(**place.options)
        slot.actor = remote.remote(on_gpu=place.on_gpu, threads=place.cores, log_format=self._log_format)
        slot.ready, slot.death, slot.asked, slot.ends_at = False, None, False, None
        slot.starts_at = time.monotonic()
        self._when_done(slot, slot.actor.code_version.remote(), self._started)

    def _replace(self, slot: Slot) -> None:
        self._end_actor(slot)
        self._start(slot)

    def _end_actor(self, slot: Slot) -> None:
        with suppress(Exception):  # it may be dead already
            ray.kill(slot.actor, no_restart=True)
        slot.actor, slot.ready = None, False

    def _when_done(self, slot: Slot, reference: Any, handle: Callable[[Slot, Future[Any]], None]) -> None:
        """Handle what comes of a task in the main loop, unless its actor was replaced meanwhile."""
        actor = slot.actor

        def handle_if_same(done: Future[Any]) -> None:
            if slot.actor is actor:
                handle(slot, done)

        future: Future[Any] = reference.future()
        future.add_done_callback(lambda done: self._events.put(partial(handle_if_same, done)))

    def _started(self, slot: Slot, answer: Future[str]) -> None:
        error, mine = answer.exception(), code_version()
        if error is not None:
            self._give_up(slot, str(error))
        elif answer.result() != mine:
            self._give_up(slot, f"its code is {answer.result()}, the server's is {mine}; install the same version")
        else:
            slot.ready, slot.usable, slot.failed_starts = True, True, 0
            self._run_call(slot)

    def _give_up(self, slot: Slot, problem: str) -> None:
        """Leave a place alone for a while, twice as long each time."""
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**slot.failed_starts)
        _log.warning("%s cannot be used, and is tried again in %g s: %s", slot.place.name, pause_s, problem)
        self._end_actor(slot)
        slot.usable = False
        slot.failed_starts, slot.starts_at = slot.failed_starts + 1, time.monotonic() + pause_s
        self._fail(slot, BrokenProcessPool(f"the process of {slot.place.name} could not be started: {problem}"))

    def _submit(self, request: Submit) -> None:
        slot = self._slots.get(request.device)
        if slot is None or slot.actor is None:
            self._answer(Failed(request.id, NodeLostError(f"{request.device} left the cluster")))
            return
        slot.call = request
        if slot.ready:
            self._run_call(slot)

    def _run_call(self, slot: Slot) -> None:
        if slot.call is not None:
            slot.ends_at = time.monotonic() + self._timeout_s
            self._answer(Advanced(slot.call.id, 0, 1))
            self._when_done(
                slot, slot.actor.run.remote(slot.call.id, slot.call.call), partial(self._returned, slot.call.id)
            )

    def _returned(self, call_id: int, slot: Slot, answer: Future[tuple[bytes, bool]]) -> None:
        if slot.call is None or slot.call.id != call_id:
            return
        error = answer.exception()
        if error is not None:
            slot.die(error if isinstance(error, Exception) else RuntimeError(str(error)))
            return
        outcome, lacks_memory = answer.result()
        self._answer(Returned(call_id, outcome))
        slot.call = slot.ends_at = None
        if lacks_memory:
            self._replace(slot)

    def _advanced(self, slot: Slot, answer: Future[tuple[int, int, int]]) -> None:
        slot.asked = False
        error = answer.exception()
        if isinstance(error, Exception):
            slot.die(error)
        elif slot.death is not None:  # it can be reached again, but its call may be lost
            self._fail(slot, NodeLostError(f"{slot.place.name} could not be reached for a while"))
            self._replace(slot)
        else:
            self._answer(Advanced(*answer.result()))

    def _fail(self, slot: Slot, error: Exception) -> None:
        if slot.call is not None:
            self._answer(Failed(slot.call.id, error))
        slot.call = slot.ends_at = None

    def _cancel(self, request: Cancel) -> None:
        for slot in self._slots.values():
            if slot.call is not None and slot.call.id == request.id:
                runs = slot.ends_at is not None
                slot.call = slot.ends_at = None
                if runs:
                    self._replace(slot)


def _report_refusal(asked: Future[None]) -> None:
    if (error := asked.exception()) is not None:
        _log.warning("Ray's autoscaler cannot be asked for GPUs: %s", error)
