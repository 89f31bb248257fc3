"""Queries of the store, each within a transaction that it has begun; the modules beside it have those of their own."""

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import ValidationError
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Float,
    RowMapping,
    ScalarSelect,
    Select,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from evaluation.plan import Plan
from service.jobs.evaluations import Damaged, Evaluation, Limits, Priority, Progress, ShardStatus
from service.jobs.labels import Label
from service.sql.tables import (
    COUNTS,
    DELIVERIES,
    EVALUATIONS,
    KEYS,
    OWNERS,
    QUEUE,
    SHARDS,
)

IDS_A_QUERY = 500
"""Ids or addresses in one query: SQLite limits its parameters."""

PLANS = 500
"""Plans of a database that stay read; most have some kilobytes."""

DAMAGED_PLAN = (
    "its stored plan cannot be read; it was written by another version, or the database was changed from outside"
)
"""The error of an evaluation, and of its shards."""

PAUSED = (EVALUATIONS.c.paused_at.is_not(None) | exists(QUEUE.c.paused_at)).label("paused")
"""Whether an evaluation, or the whole queue, is paused."""

DESCRIBED = (*(each for each in EVALUATIONS.c if each.name not in {"plan", "words"}), PAUSED)
"""Columns of an evaluation, without its plan, which may be large."""

_PLANS: WeakKeyDictionary[Engine, OrderedDict[str, Plan]] = WeakKeyDictionary()
"""Of each database, those that were read last."""


class KeyReusedError(ValueError):
    """An idempotency key came again with another request."""


class DamagedEvaluationError(RuntimeError):
    """The plan of an evaluation cannot be read."""


def plan_of(db: Connection, evaluation_id: str) -> Plan:
    """Read the plan of an evaluation, or take it as it was read before.

    Raises:
        DamagedEvaluationError: it cannot be read.
    """
    plan = plans_of(db, [evaluation_id])[evaluation_id]
    if plan is None:
        raise DamagedEvaluationError(f"evaluation {evaluation_id}: {DAMAGED_PLAN}")
    return plan


def plans_of(db: Connection, evaluation_ids: Collection[str]) -> dict[str, Plan | None]:
    """Read plans, or take them as they were read before: they may have megabytes, and never change; None for a damaged one."""
    known = _PLANS.setdefault(db.engine, OrderedDict())
    plans: dict[str, Plan | None] = {each: known.get(each) for each in evaluation_ids}
    missing = [each for each, plan in plans.items() if plan is None]
    for evaluation_id, text in db.execute(_STORED_PLANS, {"its_ids": missing}) if missing else ():
        try:
            plans[evaluation_id] = known[evaluation_id] = Plan.model_validate_json(text)
        except ValidationError:
            continue
    while len(known) > PLANS:
        known.popitem(last=False)
    return plans


def forget_plan(db: Connection, evaluation_id: str) -> None:
    """Read the plan of an evaluation anew, should another one take its id."""
    _PLANS.get(db.engine, OrderedDict()).pop(evaluation_id, None)


def total(column: ColumnElement[int]) -> ColumnElement[int]:
    """Sum up integers, 0 where there are none: PostgreSQL gives sums of large ones as decimals."""
    return func.coalesce(cast(func.sum(column), column.type), 0)


def now() -> float:
    """Seconds since 1970."""
    return datetime.now(UTC).timestamp()


def clock(db: Connection) -> float:
    """The same by the clock that all processes with this database share: several machines may use PostgreSQL."""
    epoch = select(cast(func.extract("epoch", func.clock_timestamp()), Float))
    return now() if db.dialect.name == "sqlite" else db.execute(epoch).scalar_one()


def failed(db: Connection, error: str) -> dict[str, Any]:
    """What is written of shards that have failed for good."""
    return {"status": ShardStatus.FAILED, "error": error, "failed_at": clock(db)}


def fairest_evaluation(db: Connection) -> str | None:
    """Id of the evaluation whose turn it is, of those that may have another device."""
    return db.execute(_FAIREST).scalar()


def in_turn(*columns: ColumnElement[Any]) -> Select[*tuple[Any, ...]]:
    """The ids of the evaluations with pending shards, and columns of theirs, in the order in which they get free devices."""
    return select(EVALUATIONS.c.id, *columns).where(count_of(ShardStatus.PENDING) > 0).order_by(*TURN)


def count_of(status: ShardStatus, column: ColumnElement[int] = COUNTS.c.shards) -> ScalarSelect[int]:
    """Shards of an evaluation that have a status, or another sum of them, within a query about evaluations."""
    mine = (COUNTS.c.evaluation_id == EVALUATIONS.c.id, COUNTS.c.status == status)
    return select(total(column)).where(*mine).scalar_subquery()


TURN = (
    PAUSED.element,
    case({each: rank for rank, each in enumerate(reversed(Priority))}, value=EVALUATIONS.c.priority),
    count_of(ShardStatus.RUNNING),
    EVALUATIONS.c.sequence,
)
"""The order of free devices: evaluations that are not paused, the highest priority, the fewest running shards, the oldest."""

_HAS_ROOM = EVALUATIONS.c.max_devices.is_(None) | (count_of(ShardStatus.RUNNING) < EVALUATIONS.c.max_devices)

_FAIREST = in_turn().where(~PAUSED.element, _HAS_ROOM).limit(1)
"""Here and below: what is asked for every shard is put together once, which takes longer than to answer it."""


def revive(db: Connection, evaluation_id: str) -> bool:
    """Make shards that were dropped or failed pending again; returns whether there were any."""
    stopped = SHARDS.c.status.in_([ShardStatus.DROPPED, ShardStatus.FAILED])
    changed = db.execute(
        update(SHARDS)
        .where(SHARDS.c.evaluation_id == evaluation_id, stopped)
        .values(status=ShardStatus.PENDING, failures=0, kills=0, error=None)
    )
    if changed.rowcount:
        going = {"cancelled_at": None, "paused_at": None, "ended_at": None}
        db.execute(update(EVALUATIONS).where(EVALUATIONS.c.id == evaluation_id).values(**going))
    return changed.rowcount > 0


def set_priority(db: Connection, evaluation_id: str, priority: Priority, *, only_raise: bool = False) -> None:
    """Give an evaluation a priority, whatever it had or in place of a lower one."""
    order = [*Priority]
    here = (
        EVALUATIONS.c.id == evaluation_id,
        EVALUATIONS.c.priority.in_(order[: order.index(priority)] if only_raise else order),
    )
    db.execute(update(EVALUATIONS).where(*here).values(priority=priority))


def drop_unfinished(db: Connection, evaluation_id: str) -> None:
    """Cancel what is pending or running of an evaluation."""
    unfinished = SHARDS.c.status.in_([ShardStatus.PENDING, ShardStatus.RUNNING])
    here = (SHARDS.c.evaluation_id == evaluation_id, unfinished)
    if db.execute(update(SHARDS).where(*here).values(status=ShardStatus.DROPPED)).rowcount:
        db.execute(update(EVALUATIONS).where(EVALUATIONS.c.id == evaluation_id).values(cancelled_at=clock(db)))


def is_repeated(db: Connection, key: str, body_sha256: str) -> bool:
    """Whether a request came before with its idempotency key.

    Raises:
        KeyReusedError: the key came before with another request.
    """
    known = db.execute(select(KEYS).where(KEYS.c.key == key)).first()
    if known is not None and known.body_sha256 != body_sha256:
        raise KeyReusedError(f"the idempotency key {key.partition(' ')[2]!r} was used before with another request")
    return known is not None


def has_ended() -> ColumnElement[bool]:
    """Whether nothing of an evaluation is pending or running any more, within a query about evaluations."""
    return count_of(ShardStatus.PENDING) + count_of(ShardStatus.RUNNING) == 0


def own(db: Connection, evaluation_id: str, owner: str) -> None:
    """Remember who asked for an evaluation."""
    if not is_owned(db, evaluation_id, owner):
        db.execute(_OWN, {"evaluation_id": evaluation_id, "owner": owner})


def is_owned(db: Connection, evaluation_id: str, owner: str) -> bool:
    """Whether someone asked for an evaluation."""
    return db.execute(_OWNED, {"its_id": evaluation_id, "its_owner": owner}).first() is not None


def disown(db: Connection, evaluation_id: str, owner: str) -> bool:
    """If others asked for an evaluation too, forget that this one did; returns whether others did."""
    others = select(OWNERS).where(OWNERS.c.evaluation_id == evaluation_id, OWNERS.c.owner != owner)
    shared = db.execute(others).first() is not None
    for part in (OWNERS, DELIVERIES) if shared else ():
        db.execute(delete(part).where(part.c.evaluation_id == evaluation_id, part.c.owner == owner))
    return shared


def find_evaluation(db: Connection, evaluation_id: str) -> Evaluation | None:
    """Read one evaluation.

    Raises:
        DamagedEvaluationError: its plan cannot be read.
    """
    found = next(iter(evaluations_among(db, [evaluation_id])), None)
    if isinstance(found, Damaged):
        raise DamagedEvaluationError(found.problem)
    return found


def described(owner: str | None = None) -> Select[*tuple[Any, ...]]:
    """The evaluations that are not removed, of all or that an owner asked for."""
    query = select(*DESCRIBED).where(EVALUATIONS.c.removed_at.is_(None))
    return query if owner is None else query.where(EVALUATIONS.c.id.in_(owned_by(owner)))


def owned_by(owner: str) -> Select[Any]:
    """The ids of the evaluations that someone asked for."""
    return select(OWNERS.c.evaluation_id).where(OWNERS.c.owner == owner)


def read_all(db: Connection, query: Select[*tuple[Any, ...]]) -> list[Evaluation | Damaged]:
    """Read the evaluations that a query describes."""
    return evaluations_of(db, db.execute(query).mappings().all())


def evaluations_among(db: Connection, evaluation_ids: Collection[str]) -> list[Evaluation | Damaged]:
    """Read those of some evaluations that there are, in the order in which they were submitted."""
    return evaluations_of(db, db.execute(_DESCRIBED_AMONG, {"its_ids": evaluation_ids}).mappings().all())


def evaluations_of(db: Connection, rows: Sequence[RowMapping]) -> list[Evaluation | Damaged]:
    """Read evaluations from their rows, with few queries for many; one whose plan cannot be read comes with its problem."""
    found: list[Evaluation | Damaged] = []
    for start in range(0, len(rows), IDS_A_QUERY):
        some = rows[start : start + IDS_A_QUERY]
        ids = [*{row["id"] for row in some}]
        plans, progress = plans_of(db, ids), _progress_of(db, ids)
        found += (_evaluation_of(row, plans[row["id"]], progress[row["id"]]) for row in some)
    return found


def _evaluation_of(row: RowMapping, plan: Plan | None, progress: Progress) -> Evaluation | Damaged:
    if plan is None:
        return Damaged(row["id"], row["sequence"], f"evaluation {row['id']}: {DAMAGED_PLAN}")
    return Evaluation(
        id=row["id"],
        sequence=row["sequence"],
        plan=plan,
        created_at=datetime.fromtimestamp(row["created_at"], UTC),
        cancelled=row["cancelled_at"] is not None,
        progress=progress,
        paused=row["paused"],
        priority=Priority(row["priority"]),
        limits=Limits(row["max_devices"], row["max_hours"]),
        device_s=row["device_s"],
        label=Label.model_validate_json(row["label"]),
    )


def _progress_of(db: Connection, evaluation_ids: Collection[str]) -> dict[str, Progress]:
    """Count the shards of evaluations."""
    these = {"its_ids": evaluation_ids}
    groups: dict[str, dict[ShardStatus, RowMapping]] = defaultdict(dict)
    for each in db.execute(_COUNTED, these).mappings():
        groups[each["evaluation_id"]][ShardStatus(each["status"])] = each
    running: dict[str, list[RowMapping]] = defaultdict(list)
    for each in db.execute(_RUNNING, these).mappings():
        running[each["evaluation_id"]].append(each)
    errors = {each["evaluation_id"]: each["error"] for each in db.execute(_ERRORS, these).mappings()}
    return {each: _progress(groups[each], running[each], errors.get(each)) for each in evaluation_ids}


def _progress(groups: Mapping[ShardStatus, RowMapping], running: Sequence[RowMapping], error: str | None) -> Progress:
    return Progress(
        shards={status: group["shards"] for status, group in groups.items()},
        images={status: group["images"] for status, group in groups.items()},
        passes={status: group["passes"] for status, group in groups.items()},
        runs=sum(group["runs"] for group in groups.values()),
        busy_s=sum(group["seconds"] for group in groups.values()),
        error=error,
        images_advanced=sum(int(each["share_done"] * each["images"]) for each in running),
        passes_advanced=sum(each["share_done"] * each["passes"] for each in running),
    )


_OWNED = select(OWNERS).where(OWNERS.c.evaluation_id == bindparam("its_id"), OWNERS.c.owner == bindparam("its_owner"))

_OWN = insert(OWNERS)

_IDS = bindparam("its_ids", expanding=True)

_DESCRIBED_AMONG = described().where(EVALUATIONS.c.id.in_(_IDS)).order_by(EVALUATIONS.c.sequence)

_STORED_PLANS = select(EVALUATIONS.c.id, EVALUATIONS.c.plan).where(EVALUATIONS.c.id.in_(_IDS))

_COUNTED = select(COUNTS).where(COUNTS.c.evaluation_id.in_(_IDS), COUNTS.c.shards > 0).order_by(COUNTS.c.status)

_RUNNING = select(SHARDS.c.evaluation_id, SHARDS.c.images, SHARDS.c.passes, SHARDS.c.share_done).where(
    SHARDS.c.evaluation_id.in_(_IDS), SHARDS.c.status == ShardStatus.RUNNING
)

_OF_FAILED = func.max(case((SHARDS.c.status == ShardStatus.FAILED, SHARDS.c.error)))

_ERRORS = (
    select(SHARDS.c.evaluation_id, func.coalesce(_OF_FAILED, func.max(SHARDS.c.error)).label("error"))
    .where(SHARDS.c.evaluation_id.in_(_IDS), SHARDS.c.error.is_not(None))
    .group_by(SHARDS.c.evaluation_id)
    .with_hint(SHARDS, "INDEXED BY shards_with_errors", "sqlite")  # else all shards are looked at
)
