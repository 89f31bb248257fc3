"""The queue of evaluations: which device runs what, and what waits in which order."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from evaluation.plan import Shard
from service.jobs.evaluations import ShardStatus
from service.jobs.queries import clock, in_turn, shard_of, total
from service.jobs.store import STALE_S, Store
from service.jobs.tables import COUNTS, DEVICES, DISPATCH, OWNERS, SHARDS


@dataclass(frozen=True)
class Running:
    """A shard that a device runs."""

    evaluation_id: str
    shard: Shard
    images_done: int
    since: datetime


@dataclass(frozen=True)
class Device:
    """A device of the dispatcher.

    Attributes:
        name: such as "cuda:0".
        online: whether its dispatcher was seen within the last `STALE_S` seconds.
        running: the shard that it runs, if any.
        deaths: how often in a row its process has died before it touched a shard.
        set_aside_until: until when it gets no work for that reason; None if it gets some.
        problem: why its process died the last time; None if it has finished a shard since.
    """

    name: str
    online: bool
    running: Running | None
    deaths: int
    set_aside_until: datetime | None
    problem: str | None


@dataclass(frozen=True)
class Waiting:
    """An evaluation with pending shards; passes through models are an estimate, as its conditions make it."""

    evaluation_id: str
    shards: int
    passes: int


class Queue:
    """Reads of what all evaluations have to do; they cost the same for any number of shards.

    Args:
        store: where the evaluations are; that of the dispatcher to write about devices.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def devices(self) -> list[Device]:
        """List the devices of the dispatcher, or of the last one, by name."""
        running = (SHARDS.c.id == DEVICES.c.shard_id) & (SHARDS.c.status == ShardStatus.RUNNING)
        query = select(DEVICES, SHARDS).join_from(DEVICES, SHARDS, running, isouter=True).order_by(DEVICES.c.name)
        with self._store.database.reading() as db:
            seen_at, now = db.execute(select(DISPATCH.c.seen_at)).scalar() or 0.0, clock(db)
            return [_device(row, online=now - seen_at <= STALE_S, now=now) for row in db.execute(query)]

    def waiting(self) -> list[Waiting]:
        """List the evaluations with pending shards, in the order in which they get the next free devices."""
        with self._store.database.reading() as db:
            return [Waiting(*row) for row in db.execute(in_turn())]

    def owned(self, owner: str) -> set[str]:
        """Read the ids of the evaluations that someone asked for."""
        with self._store.database.reading() as db:
            return {*db.execute(select(OWNERS.c.evaluation_id).where(OWNERS.c.owner == owner)).scalars()}

    def shard_counts(self) -> dict[str, int]:
        """Count the shards of all evaluations by status."""
        with self._store.database.reading() as db:
            rows = db.execute(select(COUNTS.c.status, total(COUNTS.c.shards)).group_by(COUNTS.c.status))
            counts: dict[str, int] = {status: count for status, count in rows}  # noqa: C416  # rows are no tuples
            return {status: counts.get(status, 0) for status in ShardStatus}

    def unfinished_passes(self, owner: str) -> int:
        """Count the passes through models that the pending and running shards of an owner's evaluations may take."""
        mine = select(OWNERS.c.evaluation_id).where(OWNERS.c.owner == owner)
        here = (COUNTS.c.evaluation_id.in_(mine), COUNTS.c.status.in_([ShardStatus.PENDING, ShardStatus.RUNNING]))
        with self._store.database.reading() as db:
            return db.execute(select(total(COUNTS.c.passes)).where(*here)).scalar_one()

    def begin(self, devices: Iterable[str]) -> None:
        """Name the devices of a dispatcher that has taken over, in place of those of the one before."""
        with self._store.writing() as db:
            db.execute(delete(DEVICES))
            db.execute(insert(DEVICES), [{"name": name, "deaths": 0} for name in devices])

    def set_aside(self, device: str, *, deaths: int, pause_s: float, problem: str) -> None:
        """Write down that a device gets no work for a while, and why."""
        with self._store.writing() as db:
            changed = {"deaths": deaths, "resumes_at": clock(db) + pause_s, "problem": problem}
            db.execute(update(DEVICES).where(DEVICES.c.name == device).values(**changed))

    def use_again(self, device: str) -> None:
        """Write down that a device works again."""
        with self._store.writing() as db:
            changed = {"deaths": 0, "resumes_at": None, "problem": None}
            db.execute(update(DEVICES).where(DEVICES.c.name == device).values(**changed))


def _device(row: Row[Any], *, online: bool, now: float) -> Device:
    is_running = online and row.id is not None
    return Device(
        name=row.name,
        online=online,
        running=Running(row.evaluation_id, shard_of(row), row.images_done, _time(row.since)) if is_running else None,
        deaths=row.deaths,
        set_aside_until=_time(row.resumes_at) if row.resumes_at is not None and row.resumes_at > now else None,
        problem=row.problem,
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
