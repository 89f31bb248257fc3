"""A submitted evaluation, and where it stands: computed from its shards, never stored a second time."""

from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum

from evaluation.plan import Plan, Shard
from service.jobs.labels import UNLABELLED, Label


class ShardStatus(StrEnum):
    """Where a shard stands; skipped ones were not needed: their score was certain enough without them."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    DROPPED = "dropped"
    SKIPPED = "skipped"


class Status(StrEnum):
    """Where an evaluation stands; computed from its shards."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen."""
        return self in {Status.DONE, Status.FAILED, Status.CANCELLED}


class Priority(StrEnum):
    """Which evaluations get free devices first; those of equal priority share them."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


@dataclass(frozen=True)
class Limits:
    """What an evaluation may take; None is no limit.

    Attributes:
        max_devices: shards of it that run at the same time.
        max_hours: hours that devices work on it, summed. Once they have, running shards are finished, and it has failed.
    """

    max_devices: int | None = None
    max_hours: float | None = None


@dataclass(frozen=True)
class Progress:
    """How far an evaluation is, counted over its shards.

    Attributes:
        shards: how many have each status.
        images: the same in images (an image counts once for every model and condition).
        passes: the same in passes of an image through a model, as the conditions estimate them.
        runs: how often a shard was handed out; more than the shards only after failures or restarts.
        busy_s: seconds that the finished shards took, summed.
        error: what a failure said, first of all that of a shard that has failed for good.
        images_advanced: images of running shards that are done, within a batch estimated from its passes.
        passes_advanced: the same in passes, which advance within an image too.
    """

    shards: dict[ShardStatus, int]
    images: dict[ShardStatus, int]
    passes: dict[ShardStatus, int]
    runs: int
    busy_s: float
    error: str | None
    images_advanced: int = 0
    passes_advanced: float = 0.0

    @property
    def images_done(self) -> int:
        """Images of finished shards, and those of running ones that are done."""
        return self.images.get(ShardStatus.DONE, 0) + self.images_advanced

    @property
    def passes_done(self) -> int:
        """The same in passes, as the conditions estimate them."""
        return self.passes.get(ShardStatus.DONE, 0) + round(self.passes_advanced)

    @property
    def images_per_s(self) -> float | None:
        """Finished images over the time that their shards took, times the shards that run side by side."""
        return self._rate(self.images)

    @property
    def eta_s(self) -> float | None:
        """Seconds until the rest is done: an attack of many steps counts for as many passes."""
        rate = self._rate(self.passes)
        rest = self.passes.get(ShardStatus.PENDING, 0) + self.passes.get(ShardStatus.RUNNING, 0)
        return None if rate is None else (rest - self.passes_advanced) / rate

    def _rate(self, amounts: dict[ShardStatus, int]) -> float | None:
        done = amounts.get(ShardStatus.DONE, 0)
        return done / self.busy_s * max(1, self.shards.get(ShardStatus.RUNNING, 0)) if done and self.busy_s else None


@dataclass(frozen=True)
class Evaluation:
    """A submitted evaluation.

    Attributes:
        id: of its plan.
        sequence: the order of submission.
        plan: what there is to do.
        created_at: when it was submitted first.
        cancelled: whether what was not finished was dropped.
        progress: how far it is.
        paused: whether it, or the whole queue, is paused: running shards are finished, and no others are started.
        priority: which evaluations get free devices first.
        limits: what it may take.
        device_s: seconds that devices have worked on it, summed; also on tries that failed, not on what was computed for others.
        label: what people wrote on it.
    """

    id: str
    sequence: int
    plan: Plan
    created_at: datetime
    cancelled: bool
    progress: Progress
    paused: bool = False
    priority: Priority = Priority.NORMAL
    limits: Limits = Limits()
    device_s: float = 0.0
    label: Label = UNLABELLED

    @property
    def status(self) -> Status:
        """Where it stands."""
        counts = self.progress.shards
        if counts.get(ShardStatus.FAILED):
            return Status.FAILED
        if counts.get(ShardStatus.DONE, 0) + counts.get(ShardStatus.SKIPPED, 0) == sum(counts.values()):
            return Status.DONE
        if self.cancelled:
            return Status.CANCELLED
        if self.paused:
            return Status.PAUSED
        started = counts.get(ShardStatus.RUNNING) or counts.get(ShardStatus.DONE)
        return Status.RUNNING if started else Status.PENDING

    @property
    def version(self) -> str:
        """What tells one state of it from another: the plan never changes, all else is part of it."""
        return repr([getattr(self, each.name) for each in fields(self) if each.name != "plan"])

    @property
    def results_version(self) -> str:
        """The same of its finished shards: one that is computed anew is handed out again."""
        progress = self.progress
        return repr((self.id, self.created_at, progress.shards.get(ShardStatus.DONE), progress.runs))


@dataclass(frozen=True)
class Claim:
    """A shard that is handed out to be run; `trace` is what its evaluation belongs to, if that is recorded."""

    id: int
    evaluation_id: str
    plan: Plan
    shard: Shard
    trace: str | None = None


@dataclass(frozen=True)
class Damaged:
    """An evaluation that cannot be read, and why."""

    id: str
    sequence: int
    problem: str


@dataclass(frozen=True)
class Delivery:
    """A webhook whose evaluation has ended, and how often it was tried."""

    id: str
    url: str
    tries: int
    evaluation: Evaluation | Damaged
