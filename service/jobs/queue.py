"""The queue of evaluations: which device runs what, what waits in which order, and how that is changed."""

from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.exc import NoResultFound

from common import UnknownNameError
from evaluation import EvaluationSpec
from evaluation.plan import Shard
from service.jobs.evaluations import Damaged, Evaluation, Limits, Priority, ShardStatus, Status
from service.jobs.labels import Label, put_label
from service.jobs.limits import set_limits, spend, spent_reason
from service.jobs.queries import (
    DESCRIBED,
    PAUSED,
    TURN,
    DamagedEvaluationError,
    clock,
    count_of,
    described,
    drop_unfinished,
    find_evaluation,
    has_ended,
    in_turn,
    owned_by,
    plan_of,
    read_all,
    revive,
    set_priority,
    total,
)
from service.jobs.shards import shard_of
from service.jobs.spans import remember_trace
from service.jobs.store import STALE_S, Store
from service.sql.tables import COUNTS, DEVICES, DISPATCH, EVALUATIONS, OWNERS, QUEUE, SHARDS

UNFINISHED = (Status.PENDING, Status.RUNNING, Status.PAUSED)


class WrongStatusError(RuntimeError):
    """What was asked for cannot be done to an evaluation where it stands; the message says when it can."""


class SharedEvaluationError(RuntimeError):
    """An evaluation that others asked for too was to be held up."""


@dataclass(frozen=True)
class Running:
    """A shard that a device runs."""

    evaluation_id: str
    shard: Shard
    share_done: float
    since: datetime

    @property
    def images_done(self) -> int:
        """Its images that are done, within a batch estimated from its passes."""
        return int(self.share_done * self.shard.images)


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
    paused: bool
    priority: Priority


@dataclass(frozen=True)
class ShardFailure:
    """A shard whose last try has failed.

    Attributes:
        evaluation_id: of its evaluation.
        shard: which images of which model and condition.
        status: pending if it is tried again, failed if it is not, dropped if its evaluation ended meanwhile.
        cause: what went wrong.
        tries: how often a device was given it.
        failed_at: when the last try failed.
    """

    evaluation_id: str
    shard: Shard
    status: ShardStatus
    cause: str
    tries: int
    failed_at: datetime


class Queue:
    """What all evaluations have to do, read at a cost that is the same for any number of shards, and the control of it.

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
        pending = (count_of(ShardStatus.PENDING, each) for each in (COUNTS.c.shards, COUNTS.c.passes))
        with self._store.database.reading() as db:
            rows = db.execute(in_turn(*pending, PAUSED, EVALUATIONS.c.priority))
            return [_waiting(row) for row in rows]

    def unfinished(self, *, limit: int, owner: str | None = None) -> list[Evaluation | Damaged]:
        """List the evaluations that have not ended: first those with running shards, then in the order of `waiting`.

        Args:
            limit: at most this many.
            owner: only those that this one asked for; None is everyone's.
        """
        idle = count_of(ShardStatus.RUNNING) == 0
        query = described(owner).where(~has_ended()).order_by(idle, *TURN).limit(limit)
        with self._store.database.reading() as db:
            return read_all(db, query)

    def failures(self, *, limit: int, owner: str | None = None) -> list[ShardFailure]:
        """List the shards whose last try has failed, the latest first; arguments are those of `unfinished`."""
        there = select(SHARDS).join_from(SHARDS, EVALUATIONS).where(EVALUATIONS.c.removed_at.is_(None))
        query = there.where(SHARDS.c.error.is_not(None)).order_by(SHARDS.c.failed_at.desc(), SHARDS.c.id.desc())
        if owner is not None:
            query = query.where(SHARDS.c.evaluation_id.in_(owned_by(owner)))
        index = (
            "shards_by_failure" if owner is None else "shards_with_errors"
        )  # an owner's evaluations, not all failures
        with self._store.database.reading() as db:
            return [
                _failure(row)
                for row in db.execute(query.limit(limit).with_hint(SHARDS, f"INDEXED BY {index}", "sqlite"))
            ]

    def specs(self, evaluation_ids: Iterable[str]) -> dict[str, EvaluationSpec]:
        """Read what evaluations ask for, by their ids; those that were removed or cannot be read are left out."""
        found: dict[str, EvaluationSpec] = {}
        with self._store.database.reading() as db:
            for each in evaluation_ids:
                with suppress(DamagedEvaluationError, NoResultFound):
                    found[each] = plan_of(db, each).spec
        return found

    def waiting_for(self, model: str) -> list[str]:
        """List the ids of the evaluations of a model that are not finished."""
        unfinished = (COUNTS.c.status.in_([ShardStatus.PENDING, ShardStatus.RUNNING]), COUNTS.c.shards > 0)
        ids = select(COUNTS.c.evaluation_id).where(*unfinished)
        with self._store.database.reading() as db:
            evaluations = read_all(db, select(*DESCRIBED).where(EVALUATIONS.c.id.in_(ids)))
        return [each.id for each in evaluations if isinstance(each, Evaluation) and model in each.plan.spec.models]

    def owned(self, owner: str) -> set[str]:
        """Read the ids of the evaluations that someone asked for."""
        with self._store.database.reading() as db:
            return {*db.execute(owned_by(owner)).scalars()}

    def shard_counts(self) -> dict[str, int]:
        """Count the shards of all evaluations by status."""
        with self._store.database.reading() as db:
            rows = db.execute(select(COUNTS.c.status, total(COUNTS.c.shards)).group_by(COUNTS.c.status))
            counts: dict[str, int] = {status: count for status, count in rows}  # noqa: C416  # rows are no tuples
            return {status: counts.get(status, 0) for status in ShardStatus}

    def useful_devices(self) -> int:
        """Count the devices that would have a shard to run if there were enough: what is paused or limited waits all the same."""
        pending, running = (count_of(status) for status in (ShardStatus.PENDING, ShardStatus.RUNNING))
        waiting = in_turn(pending, running, EVALUATIONS.c.max_devices).where(~PAUSED.element)
        with self._store.database.reading() as db:
            more = [
                pending if most is None else min(pending, max(0, most - running))
                for _, pending, running, most in db.execute(waiting)
            ]
            query = select(total(COUNTS.c.shards)).where(COUNTS.c.status == ShardStatus.RUNNING)
            return sum(more) + db.execute(query).scalar_one()

    def unfinished_passes(self, owner: str) -> int:
        """Count the passes through models that the pending and running shards of an owner's evaluations may take."""
        here = (
            COUNTS.c.evaluation_id.in_(owned_by(owner)),
            COUNTS.c.status.in_([ShardStatus.PENDING, ShardStatus.RUNNING]),
        )
        with self._store.database.reading() as db:
            return db.execute(select(total(COUNTS.c.passes)).where(*here)).scalar_one()

    @property
    def paused(self) -> bool:
        """Whether the whole queue is paused."""
        with self._store.database.reading() as db:
            return db.execute(select(QUEUE)).first() is not None

    def pause(self) -> None:
        """Start no more shards, of any evaluation, until `resume`; those that are running are finished."""
        with self._store.writing() as db:
            if db.execute(select(QUEUE)).first() is None:
                db.execute(insert(QUEUE).values(paused_at=clock(db)))

    def resume(self) -> None:
        """Start shards again."""
        with self._store.writing() as db:
            db.execute(delete(QUEUE))

    def pause_evaluation(self, evaluation_id: str, owner: str | None = None) -> None:
        """Start no more shards of an evaluation until it is resumed; those that are running are finished.

        Args:
            evaluation_id: of one that has not ended.
            owner: who asks; None may do it to evaluations of all.

        Raises:
            UnknownNameError: there is no such evaluation.
            WrongStatusError: it has ended.
            SharedEvaluationError: others asked for it too.
        """
        with self._changing(evaluation_id, UNFINISHED, "paused") as (db, found):
            _require_alone(db, found.id, owner)
            here = (EVALUATIONS.c.id == evaluation_id, EVALUATIONS.c.paused_at.is_(None))
            db.execute(update(EVALUATIONS).where(*here).values(paused_at=clock(db)))

    def resume_evaluation(self, evaluation_id: str) -> None:
        """Start shards of an evaluation again, unless the whole queue is paused.

        Raises:
            UnknownNameError: there is no such evaluation.
            WrongStatusError: it has ended.
        """
        with self._changing(evaluation_id, UNFINISHED, "resumed") as (db, _):
            db.execute(update(EVALUATIONS).where(EVALUATIONS.c.id == evaluation_id).values(paused_at=None))

    def prioritise(self, evaluation_id: str, priority: Priority, owner: str | None = None) -> None:
        """Change the priority of an evaluation; arguments and errors are those of `pause_evaluation`."""
        with self._changing(evaluation_id, UNFINISHED, "given a priority") as (db, found):
            _require_alone(db, found.id, owner)
            set_priority(db, evaluation_id, priority)

    def put_label(self, evaluation_id: str, label: Label, owner: str | None = None) -> None:
        """Write a label on an evaluation, wherever it stands; arguments and errors are those of `pause_evaluation`."""
        with self._changing(evaluation_id, (*Status,), "labelled") as (db, found):
            _require_alone(db, found.id, owner)
            put_label(db, found.id, found.plan.spec, label)

    def cancel(self, evaluation_id: str) -> None:
        """Drop what is not finished of an evaluation.

        Raises:
            UnknownNameError: there is no such evaluation.
        """
        with self._changing(evaluation_id, (*Status,), "cancelled") as (db, _):
            drop_unfinished(db, evaluation_id)

    def limit(self, evaluation_id: str, limits: Limits, owner: str | None = None) -> None:
        """Change what an evaluation may take, also of one that has failed; arguments and errors are those of `pause_evaluation`."""
        with self._changing(evaluation_id, (*UNFINISHED, Status.FAILED), "limited") as (db, found):
            _require_alone(db, found.id, owner)
            set_limits(db, evaluation_id, limits)

    def spend(self, seconds: Mapping[str, float]) -> None:
        """Write down how long devices have worked on evaluations, by their ids; those that reach their limit end."""
        with self._store.writing() as db:
            for evaluation_id, more in seconds.items():
                spend(db, evaluation_id, more)

    def retry(self, evaluation_id: str, trace: str | None = None) -> None:
        """Make the shards of a failed evaluation that failed, or were dropped for it, pending with fresh tries.

        Raises:
            UnknownNameError: there is no such evaluation.
            WrongStatusError: it has not failed, or devices have worked on it for as long as they may.
        """
        with self._changing(evaluation_id, (Status.FAILED,), "retried") as (db, _):
            if reason := spent_reason(db, evaluation_id):
                raise WrongStatusError(f"evaluation {evaluation_id} cannot be retried: {reason}")
            revive(db, evaluation_id)
            if trace is not None:
                remember_trace(db, evaluation_id, trace)

    @contextmanager
    def _changing(
        self, evaluation_id: str, allowed: Collection[Status], done: str
    ) -> Generator[tuple[Connection, Evaluation]]:
        with self._store.writing() as db:
            found = find_evaluation(db, evaluation_id)
            if found is None:
                raise UnknownNameError("evaluation", f"there is no evaluation {evaluation_id!r}")
            if found.status not in allowed:
                raise WrongStatusError(
                    f"evaluation {evaluation_id} is {found.status} and cannot be {done}; one that is "
                    f"{' or '.join(allowed)} can"
                )
            yield db, found

    def forget_devices(self) -> None:
        """Forget the devices of the dispatcher before."""
        with self._store.writing() as db:
            db.execute(delete(DEVICES))

    def change_devices(self, *, joined: Iterable[str], gone: Iterable[str]) -> None:
        """Name devices that the dispatcher has got, and forget those that it no longer has."""
        with self._store.writing() as db:
            db.execute(delete(DEVICES).where(DEVICES.c.name.in_([*gone])))
            if rows := [{"name": name, "deaths": 0} for name in joined]:
                db.execute(insert(DEVICES), rows)

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


def _require_alone(db: Connection, evaluation_id: str, owner: str | None) -> None:
    others = (OWNERS.c.evaluation_id == evaluation_id, OWNERS.c.owner != owner)
    if owner is not None and db.execute(select(OWNERS).where(*others)).first():
        raise SharedEvaluationError(
            f"others asked for evaluation {evaluation_id} too; only an admin key can pause it or change its priority, "
            "limits or label"
        )


def _waiting(row: Row[Any]) -> Waiting:
    evaluation_id, shards, passes, paused, priority = tuple(row)
    return Waiting(evaluation_id, shards, passes, paused, Priority(priority))


def _failure(row: Row[Any]) -> ShardFailure:
    return ShardFailure(
        row.evaluation_id, shard_of(row), ShardStatus(row.status), row.error, row.runs, _time(row.failed_at)
    )


def _device(row: Row[Any], *, online: bool, now: float) -> Device:
    is_running = online and row.id is not None
    return Device(
        name=row.name,
        online=online,
        running=Running(row.evaluation_id, shard_of(row), row.share_done, _time(row.since)) if is_running else None,
        deaths=row.deaths,
        set_aside_until=_time(row.resumes_at) if row.resumes_at is not None and row.resumes_at > now else None,
        problem=row.problem,
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
