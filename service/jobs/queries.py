"""Queries of the store, each within a transaction that it has begun; the modules beside it have those of their own."""

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from pydantic import ValidationError
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Float,
    Row,
    RowMapping,
    ScalarSelect,
    Select,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from evaluation.compute.runner import ShardResult
from evaluation.plan import Plan, Shard
from evaluation.results.tally import Tally
from service.jobs.evaluations import Damaged, Evaluation, Limits, Priority, Progress, ShardStatus
from service.sql.tables import (
    COUNTS,
    DELIVERIES,
    DEVICES,
    EVALUATIONS,
    KEYS,
    OWNERS,
    QUEUE,
    RESULTS,
    SHARDS,
)

IDS_A_QUERY = 500
"""Ids or addresses in one query: SQLite limits its parameters."""

PLANS = 128
"""Plans of a database that stay read."""

DAMAGED_PLAN = (
    "its stored plan cannot be read; it was written by another version, or the database was changed from outside"
)
"""The error of an evaluation, and of its shards."""

DAMAGED_RESULT = (
    "its stored result cannot be read and was set aside; submit the evaluation again, and it is computed anew"
)
"""The error of a shard that was finished."""

PAUSED = (EVALUATIONS.c.paused_at.is_not(None) | exists(QUEUE.c.paused_at)).label("paused")
"""Whether an evaluation, or the whole queue, is paused."""

DESCRIBED = (*(each for each in EVALUATIONS.c if each is not EVALUATIONS.c.plan), PAUSED)
"""Columns of an evaluation, without its plan."""

_PLANS: WeakKeyDictionary[Engine, OrderedDict[str, Plan]] = WeakKeyDictionary()
"""Of each database, those that were read last."""

T = TypeVar("T", ShardResult, Tally)


class KeyReusedError(ValueError):
    """An idempotency key came again with another request."""


class DamagedEvaluationError(RuntimeError):
    """The plan of an evaluation cannot be read."""


def plan_of(db: Connection, evaluation_id: str) -> Plan:
    """Read the plan of an evaluation, or take it as it was read before: its text may have megabytes, and never changes.

    Raises:
        DamagedEvaluationError: it cannot be read.
    """
    known = _PLANS.setdefault(db.engine, OrderedDict())
    if (plan := known.get(evaluation_id)) is None:
        text = db.execute(select(EVALUATIONS.c.plan).where(EVALUATIONS.c.id == evaluation_id)).scalar_one()
        try:
            plan = known[evaluation_id] = Plan.model_validate_json(text)
        except ValidationError as error:
            raise DamagedEvaluationError(f"evaluation {evaluation_id}: {DAMAGED_PLAN}") from error
        while len(known) > PLANS:
            known.popitem(last=False)
    return plan


def forget_plan(db: Connection, evaluation_id: str) -> None:
    """Read the plan of an evaluation anew, should another one take its id."""
    _PLANS.get(db.engine, OrderedDict()).pop(evaluation_id, None)


def of_condition(shard: Shard) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Rows of a shard's model and condition."""
    return SHARDS.c.model == shard.model, SHARDS.c.condition == shard.condition


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


def shard_of(row: Row[Any]) -> Shard:
    """The shard that a row describes."""
    return Shard(model=row.model, condition=row.condition, start=row.start, stop=row.start + row.images)


def read_stored(kind: type[T], text: str, shard: Shard | None = None) -> T | None:
    """Read a result or a tally, for a shard that may be another of the same address; None if it is damaged."""
    try:
        found = kind.model_validate_json(text)
    except ValidationError:
        return None
    return found if shard is None else found.model_copy(update={"shard": shard})


def finished_shards(evaluation_id: str, *columns: ColumnElement[Any]) -> Select[Any]:
    """The finished shards of an evaluation, with columns of theirs and of their results."""
    same = (SHARDS.c.address == RESULTS.c.address) & (SHARDS.c.images == RESULTS.c.images)
    identity = (SHARDS.c.address, SHARDS.c.model, SHARDS.c.condition, SHARDS.c.start, SHARDS.c.images)
    here = (SHARDS.c.evaluation_id == evaluation_id, SHARDS.c.status == ShardStatus.DONE)
    return select(*identity, *columns).join_from(SHARDS, RESULTS, same).where(*here)


def results_at(
    db: Connection, addresses: Iterable[str], *columns: ColumnElement[Any], images: int | None = None
) -> Iterator[tuple[tuple[str, int], tuple[Any, ...]]]:
    """Read columns of the results at some addresses; yields each address and number of images with them."""
    ordered = sorted(set(addresses))
    for start in range(0, len(ordered), IDS_A_QUERY):
        here = RESULTS.c.address.in_(ordered[start : start + IDS_A_QUERY])
        query = select(RESULTS.c.address, RESULTS.c.images, *columns).where(here)
        for row in db.execute(query if images is None else query.where(RESULTS.c.images == images)):
            yield (row.address, row.images), tuple(row)[2:]


def set_aside(db: Connection, addresses: Collection[str]) -> None:
    """Remove results that cannot be read; the shards that had them have failed."""
    db.execute(delete(RESULTS).where(RESULTS.c.address.in_(addresses)))
    here = (SHARDS.c.address.in_(addresses), SHARDS.c.status == ShardStatus.DONE)
    db.execute(update(SHARDS).where(*here).values(**failed(db, DAMAGED_RESULT)))


def insert_result(db: Connection, plan: Plan, shard: Shard, result: ShardResult) -> None:
    """Add the result of a shard, unless there is one at its address."""
    address = plan.address(shard)
    if not [*results_at(db, [address], RESULTS.c.address, images=result.shard.images)]:
        tally = Tally.of(plan, result).model_dump_json(exclude_defaults=True)
        text = result.model_dump_json()
        size = len(tally.encode()) + len(text.encode())
        row = {"address": address, "images": result.shard.images, "seconds": result.seconds, "bytes": size}
        db.execute(insert(RESULTS).values(**row, tally=tally, result=text))


def start_shard(db: Connection, row: Row[Any], device: str | None) -> None:
    """Make a shard a running one, of a device."""
    running = {"status": ShardStatus.RUNNING, "runs": SHARDS.c.runs + 1, "error": None, "share_done": 0.0}
    db.execute(update(SHARDS).where(SHARDS.c.id == row.id).values(**running))
    if device is not None:
        db.execute(update(DEVICES).where(DEVICES.c.name == device).values(shard_id=row.id, since=clock(db)))


def failed(db: Connection, error: str) -> dict[str, Any]:
    """What is written of shards that have failed for good."""
    return {"status": ShardStatus.FAILED, "error": error, "failed_at": clock(db)}


def fairest_evaluation(db: Connection) -> str | None:
    """Id of the evaluation whose turn it is, of those that may have another device."""
    most = EVALUATIONS.c.max_devices
    has_room = most.is_(None) | (count_of(ShardStatus.RUNNING) < most)
    return db.execute(in_turn().where(~PAUSED.element, has_room).limit(1)).scalar()


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


def last_finished(db: Connection, evaluation_id: str) -> int:
    """The number of the shard of an evaluation that was finished last; they count from 1."""
    last = func.coalesce(func.max(SHARDS.c.finished), 0)
    return db.execute(select(last).where(SHARDS.c.evaluation_id == evaluation_id)).scalar_one()


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
    here = (OWNERS.c.evaluation_id == evaluation_id, OWNERS.c.owner == owner)
    if not db.execute(select(OWNERS).where(*here)).first():
        db.execute(insert(OWNERS).values(evaluation_id=evaluation_id, owner=owner))


def disown(db: Connection, evaluation_id: str, owner: str) -> bool:
    """If others asked for an evaluation too, forget that this one did; returns whether others did."""
    others = select(OWNERS).where(OWNERS.c.evaluation_id == evaluation_id, OWNERS.c.owner != owner)
    shared = db.execute(others).first() is not None
    for part in (OWNERS, DELIVERIES) if shared else ():
        db.execute(delete(part).where(part.c.evaluation_id == evaluation_id, part.c.owner == owner))
    return shared


def find_evaluation(db: Connection, evaluation_id: str) -> Evaluation | None:
    """Read one evaluation; raises DamagedEvaluationError if its plan cannot be read."""
    here = (EVALUATIONS.c.id == evaluation_id, EVALUATIONS.c.removed_at.is_(None))
    row = db.execute(select(*DESCRIBED).where(*here)).mappings().first()
    return None if row is None else _evaluation(db, row, next(_progress_of(db, [evaluation_id])))


def described(owner: str | None = None) -> Select[*tuple[Any, ...]]:
    """The evaluations that are not removed, of all or that an owner asked for."""
    query = select(*DESCRIBED).where(EVALUATIONS.c.removed_at.is_(None))
    return query if owner is None else query.where(EVALUATIONS.c.id.in_(owned_by(owner)))


def owned_by(owner: str) -> Select[Any]:
    """The ids of the evaluations that someone asked for."""
    return select(OWNERS.c.evaluation_id).where(OWNERS.c.owner == owner)


def read_all(db: Connection, query: Select[*tuple[Any, ...]]) -> list[Evaluation | Damaged]:
    """Read the evaluations that a query describes."""
    return evaluations_in(db, db.execute(query).mappings().all())


def evaluations_in(db: Connection, rows: Sequence[RowMapping]) -> list[Evaluation | Damaged]:
    """Read evaluations from their rows, with few queries for many; of one that cannot be read, say why."""
    found: list[Evaluation | Damaged] = []
    for row, progress in zip(rows, _progress_of(db, [row["id"] for row in rows]), strict=True):
        try:
            found.append(_evaluation(db, row, progress))
        except DamagedEvaluationError as error:
            found.append(Damaged(row["id"], row["sequence"], str(error)))
    return found


def _evaluation(db: Connection, row: RowMapping, progress: Progress) -> Evaluation:
    return Evaluation(
        id=row["id"],
        sequence=row["sequence"],
        plan=plan_of(db, row["id"]),
        created_at=datetime.fromtimestamp(row["created_at"], UTC),
        cancelled=row["cancelled_at"] is not None,
        progress=progress,
        paused=row["paused"],
        priority=Priority(row["priority"]),
        limits=Limits(row["max_devices"], row["max_hours"]),
        device_s=row["device_s"],
    )


def _progress_of(db: Connection, ids: Sequence[str]) -> Iterator[Progress]:
    """Count the shards of evaluations, in their order."""
    for start in range(0, len(ids), IDS_A_QUERY):
        some = ids[start : start + IDS_A_QUERY]
        mine = SHARDS.c.evaluation_id.in_(some)
        counted = select(COUNTS).where(COUNTS.c.evaluation_id.in_(some), COUNTS.c.shards > 0).order_by(COUNTS.c.status)
        advanced = select(SHARDS.c.evaluation_id, SHARDS.c.images, SHARDS.c.passes, SHARDS.c.share_done)
        failed_first = (SHARDS.c.status != ShardStatus.FAILED, SHARDS.c.error.desc())
        rank = func.row_number().over(partition_by=SHARDS.c.evaluation_id, order_by=failed_first).label("rank")
        errors = select(SHARDS.c.evaluation_id, SHARDS.c.error, rank).where(mine, SHARDS.c.error.is_not(None))
        errors = errors.with_hint(
            SHARDS, "INDEXED BY shards_with_errors", "sqlite"
        ).subquery()  # else all are looked at
        groups = _by_evaluation(db, counted)
        running = _by_evaluation(db, advanced.where(mine, SHARDS.c.status == ShardStatus.RUNNING))
        failed = _by_evaluation(db, select(errors).where(errors.c.rank == 1))
        for each in some:
            yield _progress(groups[each], running[each], failed[each])


def _by_evaluation(db: Connection, query: Select[*tuple[Any, ...]]) -> defaultdict[str, list[Row[Any]]]:
    found: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    for row in db.execute(query):
        found[row.evaluation_id].append(row)
    return found


def _progress(groups: list[Row[Any]], running: list[Row[Any]], failed: list[Row[Any]]) -> Progress:
    return Progress(
        shards={ShardStatus(group.status): group.shards for group in groups},
        images={ShardStatus(group.status): group.images for group in groups},
        passes={ShardStatus(group.status): group.passes for group in groups},
        runs=sum(group.runs for group in groups),
        busy_s=sum(group.seconds for group in groups),
        error=failed[0].error if failed else None,
        images_advanced=sum(int(each.share_done * each.images) for each in running),
        passes_advanced=sum(each.share_done * each.passes for each in running),
    )
