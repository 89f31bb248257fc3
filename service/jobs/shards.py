"""Queries about shards and their results, each within a transaction that the store has begun.

What is asked for every shard is put together once: that takes longer than to answer it.
"""

from collections.abc import Collection, Iterable, Iterator
from functools import cache
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, delete, func, insert, select, update

from evaluation.compute.runner import ShardResult
from evaluation.plan import Shard
from evaluation.results.tally import Tally
from service.jobs.evaluations import Claim, ShardStatus
from service.jobs.queries import IDS_A_QUERY, clock, failed
from service.sql.tables import DEVICES, RESULTS, SHARDS, UNCUT

DAMAGED_RESULT = (
    "its stored result cannot be read and was set aside; submit the evaluation again, and it is computed anew"
)
"""The error of a shard that was finished."""

T = TypeVar("T", ShardResult, Tally)

_ID, _EVALUATION = bindparam("its_id"), bindparam("its_evaluation")

_NEXT_PENDING = (
    select(SHARDS)
    .where(SHARDS.c.evaluation_id == _EVALUATION, SHARDS.c.status == ShardStatus.PENDING, SHARDS.c.address != UNCUT)
    .order_by(SHARDS.c.id)
    .limit(1)
)

_START = (
    update(SHARDS)
    .where(SHARDS.c.id == _ID)
    .values(status=ShardStatus.RUNNING, runs=SHARDS.c.runs + 1, error=None, share_done=0.0)
)

_OCCUPY = update(DEVICES).where(DEVICES.c.name == bindparam("its_name"))

_FINISH = (
    update(SHARDS).where(SHARDS.c.id == _ID, SHARDS.c.status == ShardStatus.RUNNING).values(status=ShardStatus.DONE)
)

_LAST_FINISHED = select(func.coalesce(func.max(SHARDS.c.finished), 0)).where(SHARDS.c.evaluation_id == _EVALUATION)

_RESULT = select(RESULTS.c.result).where(
    RESULTS.c.address == bindparam("its_address"), RESULTS.c.images == bindparam("its_images")
)

_AT_ADDRESSES = RESULTS.c.address.in_(bindparam("its_addresses", expanding=True))

_RESULTS = select(RESULTS.c.result).where(_AT_ADDRESSES)

_RUNNING_AMONG = select(SHARDS.c.id).where(
    SHARDS.c.id.in_(bindparam("its_ids", expanding=True)), SHARDS.c.status == ShardStatus.RUNNING
)

_INSERT_RESULT = insert(RESULTS)


def of_condition(shard: Shard) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Rows of a shard's model and condition."""
    return SHARDS.c.model == shard.model, SHARDS.c.condition == shard.condition


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
    db: Connection, addresses: Iterable[str], *columns: ColumnElement[Any]
) -> Iterator[tuple[tuple[str, int], tuple[Any, ...]]]:
    """Read columns of the results at some addresses; yields each address and number of images with them."""
    ordered = sorted(set(addresses))
    for start in range(0, len(ordered), IDS_A_QUERY):
        for row in db.execute(_columns_at(columns), {"its_addresses": ordered[start : start + IDS_A_QUERY]}):
            yield (row.address, row.images), tuple(row)[2:]


@cache
def _columns_at(columns: tuple[ColumnElement[Any], ...]) -> Select[*tuple[Any, ...]]:
    return select(RESULTS.c.address, RESULTS.c.images, *columns).where(_AT_ADDRESSES)


def running_among(db: Connection, shard_ids: Collection[int]) -> set[int]:
    """Of the ids of shards, those that are running."""
    return {*db.execute(_RUNNING_AMONG, {"its_ids": [*shard_ids]}).scalars()}


def set_aside(db: Connection, addresses: Collection[str]) -> None:
    """Remove results that cannot be read; the shards that had them have failed."""
    db.execute(delete(RESULTS).where(RESULTS.c.address.in_(addresses)))
    here = (SHARDS.c.address.in_(addresses), SHARDS.c.status == ShardStatus.DONE)
    db.execute(update(SHARDS).where(*here).values(**failed(db, DAMAGED_RESULT)))


def result_at(db: Connection, address: str, images: int) -> str | None:
    """Read the result of so many images at an address, as it is stored."""
    return db.execute(_RESULT, {"its_address": address, "its_images": images}).scalar()


def results_among(db: Connection, addresses: Iterable[str]) -> list[str]:
    """Read the results at some addresses, as they are stored."""
    return [*db.execute(_RESULTS, {"its_addresses": [*addresses]}).scalars()]


def next_pending(db: Connection, evaluation_id: str) -> Row[Any] | None:
    """Find the next pending shard of an evaluation; None if what is pending has yet to be cut into shards."""
    return db.execute(_NEXT_PENDING, {"its_evaluation": evaluation_id}).first()


def start_shard(db: Connection, row: Row[Any], device: str | None) -> None:
    """Make a shard a running one, of a device."""
    db.execute(_START, {"its_id": row.id})
    if device is not None:
        db.execute(_OCCUPY, {"its_name": device, "shard_id": row.id, "since": clock(db)})


def finish_shard(db: Connection, claim: Claim, result: ShardResult) -> bool:
    """Make a running shard a finished one, and add its result, unless there is one at its address; returns whether it ran."""
    number = last_finished(db, claim.evaluation_id) + 1
    finished = {"its_id": claim.id, "seconds": result.seconds, "finished": number}
    if db.execute(_FINISH, finished).rowcount != 1:
        return False
    address = claim.plan.address(claim.shard)
    if result_at(db, address, result.shard.images) is None:
        tally = Tally.of(claim.plan, result).model_dump_json(exclude_defaults=True)
        text = result.model_dump_json()
        size = len(tally.encode()) + len(text.encode())
        row = {"address": address, "images": result.shard.images, "seconds": result.seconds, "bytes": size}
        db.execute(_INSERT_RESULT, {**row, "tally": tally, "result": text})
    return True


def last_finished(db: Connection, evaluation_id: str) -> int:
    """The number of the shard of an evaluation that was finished last; they count from 1."""
    return db.execute(_LAST_FINISHED, {"its_evaluation": evaluation_id}).scalar_one()
