"""The queue of evaluations, the devices that work it off, and what failed of late."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Literal, Self

import torch
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from evaluation import EvaluationSpec
from service.http.deps import Caller, CallerDep, Service, ServiceDep, require_admin
from service.jobs.evaluations import Priority, ShardStatus
from service.jobs.queue import Device, Queue, ShardFailure, Waiting

router = APIRouter(prefix="/v1", tags=["queue"])

EvaluationName = Annotated[str, Field(description="id of the evaluation", examples=["5c1f0a9be3d27764"])]


ConditionIndex = Annotated[int, Field(description="in the specification, from 0")]

Title = Annotated[
    str | None,
    Field(description="of the condition; null if the evaluation's plan cannot be read", examples=["PGD-20 Linf 8/255"]),
]


class RunningView(BaseModel):
    """A shard of an evaluation that a device runs."""

    evaluation: EvaluationName
    model: Annotated[str, Field(examples=["resnet_mini.fashion_mnist"])]
    condition: ConditionIndex
    title: Title
    start: Annotated[int, Field(description="first image, from 0")]
    images: int
    images_done: int
    share_done: Annotated[float, Field(description="of the shard, 0 to 1; moves within an image too")]
    since: datetime


class MemoryView(BaseModel):
    """Memory of a GPU, of all processes together."""

    used_bytes: int
    total_bytes: int


class DeviceView(BaseModel):
    """A device that runs evaluations."""

    name: Annotated[str, Field(examples=["cuda:0"])]
    state: Annotated[
        Literal["idle", "running", "set aside", "offline"],
        Field(description="offline: no process of the service hands out work; set aside: its process died by itself"),
    ]
    running: Annotated[RunningView | None, Field(description="null too where it is another caller's")]
    deaths: Annotated[int, Field(description="in a row, of its process before it touched a shard")]
    set_aside_until: datetime | None
    problem: Annotated[str | None, Field(description="why its process died the last time; null once it works again")]
    memory: Annotated[MemoryView | None, Field(description="null for a CPU, and for a device of another machine")]


class DeviceList(BaseModel):
    """The devices that run evaluations."""

    devices: list[DeviceView]


class RunningOn(RunningView):
    """A running shard, and where it runs."""

    device: Annotated[str, Field(examples=["cuda:0"])]


class WaitingView(BaseModel):
    """An evaluation with shards that wait."""

    place: Annotated[int, Field(description="in the whole queue, from 1: who gets the next free device")]
    evaluation: EvaluationName
    models: Annotated[tuple[str, ...], Field(description="none if the evaluation's plan cannot be read")]
    dataset: str | None
    priority: Priority
    paused: Annotated[bool, Field(description="it, or the whole queue")]
    shards: Annotated[int, Field(description="that wait")]
    passes: Annotated[int, Field(description="through models that they may take, estimated")]


class Amounts(BaseModel):
    """How much waits."""

    evaluations: int
    shards: int
    passes: int

    @classmethod
    def of(cls, waiting: Iterable[Waiting]) -> Self:
        """Add up."""
        listed = [*waiting]
        return cls(
            evaluations=len(listed),
            shards=sum(each.shards for each in listed),
            passes=sum(each.passes for each in listed),
        )


class QueueView(BaseModel):
    """What runs and what waits: the caller's own by name, what is others' as counts."""

    paused: Annotated[bool, Field(description="the whole: running shards are finished, no others are started")]
    running: list[RunningOn]
    running_of_others: int
    waiting: Annotated[list[WaitingView], Field(description="in the order in which they get the next free devices")]
    waiting_in_all: Annotated[Amounts, Field(description="the caller's, listed or not, and others'")]
    waiting_of_others: Amounts


class FailureView(BaseModel):
    """A shard whose last try has failed."""

    evaluation: EvaluationName
    model: Annotated[str, Field(examples=["resnet_mini.fashion_mnist"])]
    condition: ConditionIndex
    title: Title
    start: Annotated[int, Field(description="first image, from 0")]
    images: int
    status: Annotated[
        ShardStatus,
        Field(description="pending: it is tried again; failed: it is not; dropped: its evaluation ended meanwhile"),
    ]
    cause: Annotated[str, Field(description="what went wrong in the last try", examples=["CheckpointError: ..."])]
    tries: Annotated[int, Field(description="how often a device was given the shard")]
    failed_at: Annotated[datetime, Field(description="when the last try failed")]


class FailureList(BaseModel):
    """The latest failures, the latest first."""

    failures: list[FailureView]


Limit = Annotated[int, Query(ge=1, le=1000, description="waiting evaluations to list")]


@router.get("/queue")
def read_queue(service: ServiceDep, caller: CallerDep, limit: Limit = 100) -> QueueView:
    """Read which device runs what, and what waits in which order."""
    return describe_queue(service.queue, _names(service, caller), limit)


@router.post("/queue/pause", dependencies=[Depends(require_admin)])
def pause_queue(service: ServiceDep, caller: CallerDep, limit: Limit = 100) -> QueueView:
    """Start no more shards of any evaluation, across restarts too; those that are running are finished."""
    service.queue.pause()
    return describe_queue(service.queue, _names(service, caller), limit)


@router.post("/queue/resume", dependencies=[Depends(require_admin)])
def resume_queue(service: ServiceDep, caller: CallerDep, limit: Limit = 100) -> QueueView:
    """Start shards again, but for evaluations that are paused by themselves."""
    service.queue.resume()
    service.dispatcher.wake()
    return describe_queue(service.queue, _names(service, caller), limit)


@router.get("/devices")
def list_devices(service: ServiceDep, caller: CallerDep) -> DeviceList:
    """List the devices that run evaluations, and how they are."""
    return describe_devices(service.queue, _names(service, caller))


@router.get("/failures")
def list_failures(
    service: ServiceDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="failures to list")] = 20,
) -> FailureList:
    """List the shards whose last try has failed, the latest first. A shard is listed until it is tried again."""
    found = service.queue.failures(limit=limit, owner=caller.owner)
    specs = service.queue.specs({each.evaluation_id for each in found})
    return FailureList(failures=[_failure(each, specs) for each in found])


def _names(service: Service, caller: Caller) -> set[str] | None:
    """Ids of the evaluations that a caller may see; None for all."""
    return None if caller.owner is None else service.queue.owned(caller.owner)


def describe_devices(queue: Queue, names: set[str] | None = None) -> DeviceList:
    """Describe the devices; what they run only of the evaluations of these ids, None is all."""
    devices = queue.devices()
    specs = _specs(queue, devices, names)
    return DeviceList(devices=[_device(each, names, specs) for each in devices])


def describe_queue(queue: Queue, names: set[str] | None = None, limit: int | None = None) -> QueueView:
    """Describe what runs and waits: by name what has one of these ids, None is all; of what waits the first so many."""
    busy = [each for each in queue.devices() if each.running is not None]
    waiting = queue.waiting()
    own = [(place, each) for place, each in enumerate(waiting, 1) if names is None or each.evaluation_id in names]
    specs = _specs(queue, busy, names) | queue.specs(each.evaluation_id for _, each in own[:limit])
    shown = [
        RunningOn(**view.model_dump(), device=each.name) for each in busy if (view := _running(each, names, specs))
    ]
    return QueueView(
        paused=queue.paused,
        running=shown,
        running_of_others=len(busy) - len(shown),
        waiting=[_waiting(place, each, specs.get(each.evaluation_id)) for place, each in own[:limit]],
        waiting_in_all=Amounts.of(waiting),
        waiting_of_others=Amounts.of(each for each in waiting if names is not None and each.evaluation_id not in names),
    )


def _specs(queue: Queue, devices: Iterable[Device], names: set[str] | None) -> dict[str, EvaluationSpec]:
    """Read what the evaluations ask for that devices run, if the caller may see them."""
    running = {each.running.evaluation_id for each in devices if each.running is not None}
    return queue.specs(running if names is None else running & names)


def _title(specs: Mapping[str, EvaluationSpec], evaluation_id: str, condition: int) -> str | None:
    return specs[evaluation_id].conditions[condition].title if evaluation_id in specs else None


def _failure(failure: ShardFailure, specs: Mapping[str, EvaluationSpec]) -> FailureView:
    shard = failure.shard
    return FailureView(
        evaluation=failure.evaluation_id,
        model=shard.model,
        condition=shard.condition,
        title=_title(specs, failure.evaluation_id, shard.condition),
        start=shard.start,
        images=shard.images,
        status=failure.status,
        cause=failure.cause,
        tries=failure.tries,
        failed_at=failure.failed_at,
    )


def _waiting(place: int, waiting: Waiting, spec: EvaluationSpec | None) -> WaitingView:
    return WaitingView(
        place=place,
        evaluation=waiting.evaluation_id,
        models=spec.models if spec else (),
        dataset=spec.dataset if spec else None,
        priority=waiting.priority,
        paused=waiting.paused,
        shards=waiting.shards,
        passes=waiting.passes,
    )


def _device(device: Device, names: set[str] | None, specs: Mapping[str, EvaluationSpec]) -> DeviceView:
    return DeviceView(
        name=device.name,
        state=_state(device),
        running=_running(device, names, specs),
        deaths=device.deaths,
        set_aside_until=device.set_aside_until,
        problem=device.problem,
        memory=_memory(device.name),
    )


def _state(device: Device) -> Literal["idle", "running", "set aside", "offline"]:
    if not device.online:
        return "offline"
    if device.running is not None:
        return "running"
    return "idle" if device.set_aside_until is None else "set aside"


def _running(device: Device, names: set[str] | None, specs: Mapping[str, EvaluationSpec]) -> RunningView | None:
    """Describe what a device runs, if the caller may see it."""
    running = device.running
    if running is None or (names is not None and running.evaluation_id not in names):
        return None
    shard = running.shard
    return RunningView(
        evaluation=running.evaluation_id,
        model=shard.model,
        condition=shard.condition,
        title=_title(specs, running.evaluation_id, shard.condition),
        start=shard.start,
        images=shard.images,
        images_done=running.images_done,
        share_done=running.share_done,
        since=running.since,
    )


def _memory(device: str) -> MemoryView | None:
    if not device.startswith("cuda:"):
        return None
    free, whole = torch.cuda.mem_get_info(device)
    return MemoryView(used_bytes=whole - free, total_bytes=whole)
