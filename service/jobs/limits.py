"""Limits of one evaluation: how many devices run it at the same time, and how long they may work on it."""

from sqlalchemy import Connection, Float, bindparam, func, select, update

from service.jobs.evaluations import Limits, ShardStatus
from service.jobs.queries import failed
from service.sql.tables import EVALUATIONS, SHARDS

HOUR_S = 3600.0
"""Seconds of an hour."""

_SPENT = EVALUATIONS.c.device_s >= HOUR_S * EVALUATIONS.c.max_hours
"""Whether devices have worked on an evaluation for as long as they may; null without a limit."""

_SPENT_BY = select(EVALUATIONS.c.device_s, EVALUATIONS.c.max_hours).where(
    EVALUATIONS.c.id == bindparam("its_evaluation"), _SPENT
)

_SPEND = (
    update(EVALUATIONS)
    .where(EVALUATIONS.c.id == bindparam("its_evaluation"))
    .values(device_s=EVALUATIONS.c.device_s + bindparam("more", type_=Float))
)


def set_limits(db: Connection, evaluation_id: str, limits: Limits, *, only_raise: bool = False) -> None:
    """Give an evaluation limits, whatever it had or, of those that are given, in place of lower ones."""
    for column, value in ((EVALUATIONS.c.max_devices, limits.max_devices), (EVALUATIONS.c.max_hours, limits.max_hours)):
        change = update(EVALUATIONS).where(EVALUATIONS.c.id == evaluation_id).values({column: value})
        if not only_raise:
            db.execute(change)
        elif value is not None:
            db.execute(change.where(column < value))
    end_spent(db, evaluation_id)


def spend(db: Connection, evaluation_id: str, seconds: float) -> None:
    """Add what a device has worked on an evaluation; where that reaches the limit, end it."""
    db.execute(_SPEND, {"its_evaluation": evaluation_id, "more": seconds})
    end_spent(db, evaluation_id)


def end_spent(db: Connection, evaluation_id: str) -> None:
    """If devices have worked on an evaluation for as long as they may, let the next pending shard fail, and drop the others."""
    reason = spent_reason(db, evaluation_id)
    if reason is not None:
        pending = (SHARDS.c.evaluation_id == evaluation_id, SHARDS.c.status == ShardStatus.PENDING)
        following = select(func.min(SHARDS.c.id)).where(*pending).scalar_subquery()
        db.execute(update(SHARDS).where(SHARDS.c.id == following).values(**failed(db, reason)))
        db.execute(update(SHARDS).where(*pending).values(status=ShardStatus.DROPPED, error=None))


def spent_reason(db: Connection, evaluation_id: str) -> str | None:
    """Say that devices have worked on an evaluation for as long as they may; None if they have not."""
    row = db.execute(_SPENT_BY, {"its_evaluation": evaluation_id}).first()
    return (
        None
        if row is None
        else (
            f"devices have worked on it for {row.device_s / HOUR_S:.4g} hours, and max_hours allows {row.max_hours:.4g}; "
            "raise max_hours, then retry it"
        )
    )
