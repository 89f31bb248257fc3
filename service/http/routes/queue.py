"""The queue of evaluations, and the devices that work it off."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal, Self

import torch
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from service.http.deps import Caller, CallerDep, Service, ServiceDep, require_admin
from service.jobs.evaluations import Priority
from service.jobs.queue import Device, Queue, Waiting

router = APIRouter(prefix="/v1", tags=["queue"])

EvaluationName = Annotated[str, Field(description="id of the evaluation", examples=["5c1f0a9be3d27764"])]


class RunningView(BaseModel):
    """A shard of an evaluation that a device runs."""

    evaluation: EvaluationName
    model: Annotated[str, Field(examples=["resnet_mini.fashion_mnist"])]
    condition: Annotated[int, Field(description="in the specification, from 0")]
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


def _names(service: Service, caller: Caller) -> set[str] | None:
    """Ids of the evaluations that a caller may see; None for all."""
    return None if caller.owner is None else service.queue.owned(caller.owner)


def describe_devices(queue: Queue, names: set[str] | None = None) -> DeviceList:
    """Describe the devices; what they run only of the evaluations of these ids, None is all."""
    return DeviceList(devices=[_device(each, names) for each in queue.devices()])


def describe_queue(queue: Queue, names: set[str] | None = None, limit: int | None = None) -> QueueView:
    """Describe what runs and waits: by name what has one of these ids, None is all; of what waits the first so many."""
    busy = [each for each in queue.devices() if each.running is not None]
    shown = [RunningOn(**view.model_dump(), device=each.name) for each in busy if (view := _running(each, names))]
    waiting = queue.waiting()
    own = [(place, each) for place, each in enumerate(waiting, 1) if names is None or each.evaluation_id in names]
    return QueueView(
        paused=queue.paused,
        running=shown,
        running_of_others=len(busy) - len(shown),
        waiting=[
            WaitingView(
                place=place,
                evaluation=each.evaluation_id,
                priority=each.priority,
                paused=each.paused,
                shards=each.shards,
                passes=each.passes,
            )
            for place, each in own[:limit]
        ],
        waiting_in_all=Amounts.of(waiting),
        waiting_of_others=Amounts.of(each for each in waiting if names is not None and each.evaluation_id not in names),
    )


def _device(device: Device, names: set[str] | None) -> DeviceView:
    return DeviceView(
        name=device.name,
        state=_state(device),
        running=_running(device, names),
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


def _running(device: Device, names: set[str] | None) -> RunningView | None:
    """Describe what a device runs, if the caller may see it."""
    running = device.running
    if running is None or (names is not None and running.evaluation_id not in names):
        return None
    shard = running.shard
    return RunningView(
        evaluation=running.evaluation_id,
        model=shard.model,
        condition=shard.condition,
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
