"""Evaluations are removed at once, and deleted in small steps: others who write wait for one of them at most."""

from sqlalchemy import ColumnElement, Connection, bindparam, delete, select, update

from service.jobs.evaluations import ShardStatus
from service.jobs.queries import clock, forget_plan
from service.sql.tables import COUNTS, DELIVERIES, EVALUATIONS, KEYS, OWNERS, RESULTS, SHARDS, TRACES

PURGED_SHARDS = 500
"""Shards that are deleted in one transaction, which takes about 85 ms on two cores."""

_REMOVED_AT = select(EVALUATIONS.c.removed_at).where(EVALUATIONS.c.id == bindparam("its_id"))


def mark_removed(db: Connection, *here: ColumnElement[bool]) -> None:
    """Let an evaluation be found no more."""
    db.execute(update(EVALUATIONS).where(*here, EVALUATIONS.c.removed_at.is_(None)).values(removed_at=clock(db)))


def removed_evaluation(db: Connection, *here: ColumnElement[bool]) -> str | None:
    """Find an evaluation that was removed and is not all deleted."""
    return db.execute(select(EVALUATIONS.c.id).where(EVALUATIONS.c.removed_at.is_not(None), *here).limit(1)).scalar()


def finish_removal(db: Connection, evaluation_id: str) -> bool:
    """Delete what is left of an evaluation if it was removed; returns whether there is one that was not."""
    row = db.execute(_REMOVED_AT, {"its_id": evaluation_id}).first()
    if row is not None and row.removed_at is not None:
        delete_evaluation(db, evaluation_id)
    return row is not None and row.removed_at is None


def purge_some(db: Connection, evaluation_id: str) -> bool:
    """Delete some shards of a removed evaluation, or what is left once there are none; returns whether there is more to delete."""
    if removed_evaluation(db, EVALUATIONS.c.id == evaluation_id) is None:  # it was submitted again
        return False
    first = select(SHARDS.c.id).where(SHARDS.c.evaluation_id == evaluation_id).order_by(SHARDS.c.id)
    ids = db.execute(first.limit(PURGED_SHARDS)).scalars().all()
    if not ids:
        delete_evaluation(db, evaluation_id)
        return False
    _delete_shards(db, evaluation_id, SHARDS.c.id.in_(ids))
    return True


def delete_evaluation(db: Connection, evaluation_id: str) -> None:
    """Delete an evaluation, and those of its results that no other one has."""
    _delete_shards(db, evaluation_id, SHARDS.c.evaluation_id == evaluation_id)
    for part in (COUNTS, KEYS, OWNERS, TRACES, DELIVERIES):
        db.execute(delete(part).where(part.c.evaluation_id == evaluation_id))
    db.execute(delete(EVALUATIONS).where(EVALUATIONS.c.id == evaluation_id))
    forget_plan(db, evaluation_id)


def _delete_shards(db: Connection, evaluation_id: str, chosen: ColumnElement[bool]) -> None:
    same = (SHARDS.c.address == RESULTS.c.address) & (SHARDS.c.images == RESULTS.c.images)
    is_others = (SHARDS.c.status == ShardStatus.DONE, SHARDS.c.evaluation_id != evaluation_id)
    addresses = select(SHARDS.c.address).where(chosen)
    others = select(SHARDS.c.id).where(same, *is_others)
    db.execute(delete(RESULTS).where(RESULTS.c.address.in_(addresses), ~others.exists()))
    db.execute(delete(SHARDS).where(chosen))
