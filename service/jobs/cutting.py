"""From a plan to the rows of its shards: the first are there at once, the others are cut as their turn comes."""

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from evaluation.plan import Plan, Shard
from service.jobs.evaluations import ShardStatus
from service.jobs.labels import UNLABELLED, words_of
from service.jobs.queries import now
from service.jobs.shards import last_finished, next_pending, results_at, shard_of
from service.sql.tables import EVALUATIONS, RESULTS, SHARDS, UNCUT

CUT_AT_FIRST = 2_000
"""Shards into which an evaluation is cut when it is submitted: more would keep who submits it waiting."""

CUT_AT_ONCE = 500
"""Shards that are cut in one transaction later: others wait for it some 30 ms."""

_LAST_SEQUENCE = select(func.max(EVALUATIONS.c.sequence))

_INSERT_EVALUATION, _INSERT_SHARDS = insert(EVALUATIONS), insert(SHARDS)


def begin_to_cut(plan: Plan) -> tuple[list[Shard], list[Shard]]:
    """Cut the first shards; returns them, and the parts that are left."""
    shards: list[Shard] = []
    uncut: list[Shard] = []
    for whole in plan.wholes:
        some, rest = plan.cut(whole, CUT_AT_FIRST - len(shards))
        shards += some
        if rest is not None:
            uncut.append(rest)
    return shards, uncut


def insert_evaluation(db: Connection, plan: Plan, addresses: Mapping[Shard, str], uncut: Iterable[Shard]) -> bool:
    """Add an evaluation with its first shards, given with their addresses, and the parts that are left to be cut."""
    last = db.execute(_LAST_SEQUENCE).scalar() or 0
    words = words_of(plan.id, plan.spec, UNLABELLED)
    row = {"id": plan.id, "sequence": last + 1, "plan": plan.model_dump_json(), "created_at": now(), "words": words}
    db.execute(_INSERT_EVALUATION, row)
    insert_shards(db, plan, addresses)
    if rows := [_row(plan, part, UNCUT) for part in uncut]:
        db.execute(_INSERT_SHARDS, rows)
    return True


def insert_shards(db: Connection, plan: Plan, addresses: Mapping[Shard, str]) -> None:
    """Add shards, given with their addresses; those that are computed are done."""
    computed = {key: seconds for key, (seconds,) in results_at(db, addresses.values(), RESULTS.c.seconds)}
    numbers = count(last_finished(db, plan.id) + 1)
    rows: list[dict[str, Any]] = []
    for shard, address in addresses.items():
        row = {**_row(plan, shard, address), "seconds": computed.get((address, shard.images)), "finished": None}
        if row["seconds"] is not None:
            row |= {"status": ShardStatus.DONE, "finished": next(numbers)}
        rows.append(row)
    db.execute(_INSERT_SHARDS, rows)


def next_shard(db: Connection, plan: Plan) -> Row[Any] | None:
    """Find the next pending shard of an evaluation that has some; None if they had to be cut first, and one may be there now."""
    found = next_pending(db, plan.id)
    if found is None:
        pending = (SHARDS.c.evaluation_id == plan.id, SHARDS.c.status == ShardStatus.PENDING)
        _cut(db, plan, db.execute(select(SHARDS).where(*pending).order_by(SHARDS.c.id).limit(1)).one())
    return found


def _cut(db: Connection, plan: Plan, found: Row[Any]) -> None:
    """Cut some shards off the part that a row is."""
    shards, rest = plan.cut(shard_of(found), CUT_AT_ONCE)
    change = delete(SHARDS) if rest is None else update(SHARDS).values(_row(plan, rest, UNCUT))
    db.execute(change.where(SHARDS.c.id == found.id))
    insert_shards(db, plan, {shard: plan.address(shard) for shard in shards})


def _row(plan: Plan, part: Shard, address: str) -> dict[str, Any]:
    """What is pending of an evaluation: a shard, or a part that is yet to be cut into some."""
    return {
        "evaluation_id": plan.id,
        "model": part.model,
        "condition": part.condition,
        "start": part.start,
        "address": address,
        "shards": plan.count(part),
        "images": part.images,
        "passes": plan.passes_of(part),
        "status": ShardStatus.PENDING,
    }
