"""The durable state: evaluations, their shards and results. The only module that contains queries."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Connection, Row, RowMapping, Select, delete, func, insert, select, update

from evaluation.compute.runner import ShardResult, furthest
from evaluation.plan import Plan, Shard
from evaluation.results.tally import Tally
from service.jobs.database import EVALUATIONS, KEYS, RESULTS, SHARDS, Database, StoreError
from service.jobs.evaluations import Claim, Damaged, Evaluation, Progress, ShardStatus

MAX_FAILURES = 3
"""Failures of a shard (exception, process death, time-out) after which its evaluation fails."""

ADDRESSES_A_QUERY = 500
"""Addresses in one query: SQLite limits its parameters."""


PLANS = 64
"""Plans that stay read."""


DAMAGED = "its stored result cannot be read and was set aside; submit the evaluation again, and it is computed anew"
"""The error of a shard that was finished."""

DAMAGED_PLAN = (
    "its stored plan cannot be read; it was written by another version, or the database was changed from outside"
)
"""The error of an evaluation, and of its shards."""

T = TypeVar("T", ShardResult, Tally)

_log = logging.getLogger(__name__)


class KeyReusedError(ValueError):
    """An idempotency key came again with another request."""


class DamagedEvaluationError(RuntimeError):
    """The plan of an evaluation cannot be read."""


class Store:
    """All reads and writes, each in one transaction."""

    def __init__(self, path: Path) -> None:
        self._database = Database(f"sqlite:///{path}")

    @classmethod
    def at(cls, path: Path) -> "Store":
        """Open or create an SQLite database file.

        Raises:
            StoreError: it cannot be read or written, is no database, or is of another version.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return cls(path)
        except StoreError as error:
            raise StoreError(f"{error}; move it aside, and a new one is made, or name another folder") from error

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def submit(self, plan: Plan, *, key: str | None = None, body_sha256: str = "") -> bool:
        """Add an evaluation with all its shards, or revive one that was cancelled or failed; finished shards stay.

        A shard that was computed for another evaluation, with the same address and number of images, is done at once.

        Args:
            plan: its id decides whether it is there already.
            key: an idempotency key of the client.
            body_sha256: of the request that the key came with.

        Returns:
            Whether there was anything to do.

        Raises:
            KeyReusedError: the key came before with another request.
        """
        with self._database.writing() as db:
            known = db.execute(select(EVALUATIONS.c.id).where(EVALUATIONS.c.id == plan.id)).first()
            changed = _revive(db, plan.id) if known else _insert(db, plan)
            if key is not None:
                _remember_key(db, key, body_sha256, plan.id)
            return changed

    def computed(self, plan: Plan, shard: Shard) -> ShardResult | None:
        """Read the result of a shard, whatever evaluation it was computed for."""
        query = select(RESULTS.c.result).where(
            RESULTS.c.address == plan.address(shard), RESULTS.c.images == shard.images
        )
        with self._database.reading() as db:
            result = db.execute(query).scalar()
        return None if result is None else _read(ShardResult, result, shard)

    def known(self, plan: Plan, shard: Shard) -> ShardResult | None:
        """Read the result from which a shard has least left to do."""
        query = select(RESULTS.c.result).where(RESULTS.c.address.in_([*plan.resumable_addresses(shard)]))
        with self._database.reading() as db:
            found = [_read(ShardResult, result) for result in db.execute(query).scalars()]
        return furthest((each for each in found if each is not None), shard)

    def tallies(self, plan: Plan, shards: Iterable[Shard]) -> list[Tally]:
        """Read the tallies of the shards that are computed, whatever evaluation they were computed for."""
        by_address = {(plan.address(shard), shard.images): shard for shard in shards}
        with self._database.reading() as db:
            found = _at(db, (address for address, _ in by_address), RESULTS.c.tally)
            read = [_read(Tally, tally, by_address[key]) for key, (tally,) in found if key in by_address]
        return [each for each in read if each is not None]

    def finished(self, plan: Plan, shard: Shard) -> list[Tally]:
        """Read the tallies of the evaluation's finished shards of a shard's model and condition."""
        return self._whole(Tally, _finished(plan.id, RESULTS.c.tally).where(*_of_condition(shard)))

    def finished_after(self, evaluation_id: str, number: int) -> tuple[list[Tally], int]:
        """Read the tallies of the shards that were finished after so many others, and how many are finished now.

        A shard stays finished, and its tally what it is, so that what was read need not be read again.
        """
        last = select(func.coalesce(func.max(SHARDS.c.finished), number)).where(SHARDS.c.evaluation_id == evaluation_id)
        with self._database.reading() as db:
            until = db.execute(last).scalar_one()
        new = (SHARDS.c.finished > number, SHARDS.c.finished <= until)
        return self._whole(Tally, _finished(evaluation_id, RESULTS.c.tally).where(*new)), until

    def evaluation(self, evaluation_id: str) -> Evaluation | None:
        """Read one evaluation.

        Raises:
            DamagedEvaluationError: its plan cannot be read.
        """
        with self._database.reading() as db:
            return _find(db, evaluation_id)

    def evaluations(self, *, limit: int | None = None, before: int | None = None) -> list[Evaluation | Damaged]:
        """List evaluations, the newest first; one whose plan cannot be read is named with its problem.

        Args:
            limit: at most this many; None is no limit.
            before: only those with a smaller sequence number.
        """
        query = select(EVALUATIONS).order_by(EVALUATIONS.c.sequence.desc()).limit(limit)
        if before is not None:
            query = query.where(EVALUATIONS.c.sequence < before)
        with self._database.reading() as db:
            return [_evaluation_or_damaged(db, row) for row in db.execute(query).mappings().all()]

    def results(self, evaluation_id: str) -> list[ShardResult]:
        """Read the finished shards."""
        return self._whole(ShardResult, _finished(evaluation_id, RESULTS.c.result))

    def result(self, evaluation_id: str, shard: Shard) -> ShardResult | None:
        """Read one finished shard."""
        here = (*_of_condition(shard), SHARDS.c.start == shard.start)
        return next(iter(self._whole(ShardResult, _finished(evaluation_id, RESULTS.c.result).where(*here))), None)

    def _whole(self, kind: type[T], query: Select[Any]) -> list[T]:
        """Read finished shards of one evaluation; what is damaged is set aside, and fails its shards alone."""
        with self._database.reading() as db:
            rows = db.execute(query).all()
        found = [(row.address, _read(kind, row[-1], _shard(row))) for row in rows]
        if damaged := {address for address, each in found if each is None}:
            _log.error("stored results cannot be read and are set aside: %s", ", ".join(sorted(damaged)))
            with self._database.writing() as db:
                db.execute(delete(RESULTS).where(RESULTS.c.address.in_(damaged)))
                here = (SHARDS.c.address.in_(damaged), SHARDS.c.status == ShardStatus.DONE)
                db.execute(update(SHARDS).where(*here).values(status=ShardStatus.FAILED, error=DAMAGED))
        return [each for _, each in found if each is not None]

    def cancel(self, evaluation_id: str) -> None:
        """Drop what is not finished."""
        with self._database.writing() as db:
            unfinished = SHARDS.c.status.in_([ShardStatus.PENDING, ShardStatus.RUNNING])
            dropped = db.execute(
                update(SHARDS)
                .where(SHARDS.c.evaluation_id == evaluation_id, unfinished)
                .values(status=ShardStatus.DROPPED)
            )
            if dropped.rowcount:
                db.execute(update(EVALUATIONS).where(EVALUATIONS.c.id == evaluation_id).values(cancelled_at=_now()))

    def remove(self, evaluation_id: str) -> Evaluation | Damaged | None:
        """Delete an evaluation with its results, unless it has yet to end; returns it as it was, None if there is none.

        Results that other evaluations have too stay.
        """
        mine = SHARDS.c.evaluation_id == evaluation_id
        with self._database.writing() as db:
            row = db.execute(select(EVALUATIONS).where(EVALUATIONS.c.id == evaluation_id)).mappings().first()
            found = None if row is None else _evaluation_or_damaged(db, row)
            if isinstance(found, Damaged) or (found is not None and found.status.final):
                same = (SHARDS.c.address == RESULTS.c.address) & (SHARDS.c.images == RESULTS.c.images)
                others = select(SHARDS.c.id).where(same, SHARDS.c.status == ShardStatus.DONE, ~mine)
                addresses = select(SHARDS.c.address).where(mine)
                db.execute(delete(RESULTS).where(RESULTS.c.address.in_(addresses), ~others.exists()))
                for part in (SHARDS, KEYS):
                    db.execute(delete(part).where(part.c.evaluation_id == evaluation_id))
                db.execute(delete(EVALUATIONS).where(EVALUATIONS.c.id == evaluation_id))
            return found

    def waiting_for(self, model: str) -> list[str]:
        """List the ids of the evaluations of a model that are not finished."""
        unfinished = SHARDS.c.status.in_([ShardStatus.PENDING, ShardStatus.RUNNING])
        ids = select(SHARDS.c.evaluation_id).where(unfinished)
        query = select(EVALUATIONS.c.id, EVALUATIONS.c.plan).where(EVALUATIONS.c.id.in_(ids))
        with self._database.reading() as db:
            rows = db.execute(query).all()
        return [row.id for row in rows if model in _models(row.plan)]

    def recover(self) -> int:
        """Make shards that were running when the former dispatcher ended pending again; returns their number."""
        with self._database.writing() as db:
            changed = db.execute(
                update(SHARDS).where(SHARDS.c.status == ShardStatus.RUNNING).values(status=ShardStatus.PENDING)
            )
            return changed.rowcount

    def claim(self) -> Claim | None:
        """Take the next pending shard, from the evaluation with the fewest running ones; the dispatcher alone calls this."""
        while True:
            with self._database.writing() as db:
                chosen = _fairest(db)
                if chosen is None:
                    return None
                here = (SHARDS.c.evaluation_id == chosen.id, SHARDS.c.status == ShardStatus.PENDING)
                try:
                    plan = read_plan(chosen.plan)
                except ValidationError:  # the others go on
                    failed = {"status": ShardStatus.FAILED, "error": DAMAGED_PLAN}
                    db.execute(update(SHARDS).where(*here).values(**failed))
                    continue
                row = db.execute(select(SHARDS).where(*here).order_by(SHARDS.c.id).limit(1)).one()
                running = {"status": ShardStatus.RUNNING, "runs": SHARDS.c.runs + 1, "error": None, "images_done": 0}
                db.execute(update(SHARDS).where(SHARDS.c.id == row.id).values(**running))
                return Claim(row.id, chosen.id, plan, _shard(row))

    def advance(self, images_done: Mapping[int, int]) -> None:
        """Write how many images of running shards, by their ids, are done."""
        with self._database.writing() as db:
            for shard_id, images in images_done.items():
                here = (SHARDS.c.id == shard_id, SHARDS.c.status == ShardStatus.RUNNING)
                db.execute(update(SHARDS).where(*here).values(images_done=images))

    def complete(self, claim: Claim, result: ShardResult) -> bool:
        """Store a result; returns False, and stores nothing, if the shard was not running (done already, dropped or removed)."""
        last = select(func.coalesce(func.max(SHARDS.c.finished), 0)).where(
            SHARDS.c.evaluation_id == claim.evaluation_id
        )
        here = (SHARDS.c.id == claim.id, SHARDS.c.status == ShardStatus.RUNNING)
        with self._database.writing() as db:
            done = {
                "status": ShardStatus.DONE,
                "seconds": result.seconds,
                "finished": db.execute(last).scalar_one() + 1,
            }
            if db.execute(update(SHARDS).where(*here).values(**done)).rowcount != 1:
                return False
            address = claim.plan.address(claim.shard)
            if not [*_at(db, [address], RESULTS.c.address, images=result.shard.images)]:
                tally = Tally.of(claim.plan, result).model_dump_json(exclude_defaults=True)
                row = {"address": address, "images": result.shard.images, "seconds": result.seconds, "tally": tally}
                db.execute(insert(RESULTS).values(**row, result=result.model_dump_json()))
            return True

    def skip(self, claim: Claim) -> None:
        """Drop a claim, if it is not done, and the pending shards of its model and condition: their numbers are certain enough."""
        here = (SHARDS.c.evaluation_id == claim.evaluation_id, *_of_condition(claim.shard))
        unfinished = (SHARDS.c.status == ShardStatus.PENDING) | (
            (SHARDS.c.id == claim.id) & (SHARDS.c.status == ShardStatus.RUNNING)
        )
        with self._database.writing() as db:
            db.execute(update(SHARDS).where(*here, unfinished).values(status=ShardStatus.SKIPPED))

    def fail(self, shard_id: int, error: str) -> None:
        """Count a failure; after the last try the shard has failed, and nothing more of its evaluation is started."""
        with self._database.writing() as db:
            here = (SHARDS.c.id == shard_id, SHARDS.c.status == ShardStatus.RUNNING)
            row = db.execute(select(SHARDS.c.failures, SHARDS.c.evaluation_id).where(*here)).first()
            if row is None:
                return
            failures = row.failures + 1
            status = ShardStatus.FAILED if failures >= MAX_FAILURES else ShardStatus.PENDING
            db.execute(update(SHARDS).where(*here).values(status=status, failures=failures, error=error))
            of_same = SHARDS.c.evaluation_id == row.evaluation_id
            if db.execute(select(SHARDS.c.id).where(of_same, SHARDS.c.status == ShardStatus.FAILED)).first():
                pending = SHARDS.c.status == ShardStatus.PENDING
                db.execute(update(SHARDS).where(of_same, pending).values(status=ShardStatus.DROPPED))

    def shard_counts(self) -> dict[str, int]:
        """Count the shards of all evaluations by status."""
        with self._database.reading() as db:
            rows = db.execute(select(SHARDS.c.status, func.count()).group_by(SHARDS.c.status))
            counts: dict[str, int] = {status: count for status, count in rows}  # noqa: C416  # rows are no tuples
            return {status: counts.get(status, 0) for status in ShardStatus}

    def wanted(self, shard_id: int) -> bool:
        """Whether a running shard's result is still asked for; not if its evaluation was removed."""
        with self._database.reading() as db:
            status = db.execute(select(SHARDS.c.status).where(SHARDS.c.id == shard_id)).scalar_one_or_none()
            return status == ShardStatus.RUNNING


@lru_cache(PLANS)
def read_plan(text: str) -> Plan:
    """Read a stored plan; the same text is read once."""
    return Plan.model_validate_json(text)


def _models(text: str) -> tuple[str, ...]:
    """The models of a stored plan; none if it is damaged, as then nothing is computed."""
    with suppress(ValidationError):
        return read_plan(text).spec.models
    return ()


def _of_condition(shard: Shard) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return SHARDS.c.model == shard.model, SHARDS.c.condition == shard.condition


def _now() -> float:
    return datetime.now(UTC).timestamp()


def _shard(row: Row[Any]) -> Shard:
    return Shard(model=row.model, condition=row.condition, start=row.start, stop=row.start + row.images)


def _read(kind: type[T], text: str, shard: Shard | None = None) -> T | None:
    """Read a result or a tally, for a shard that may be another of the same address; None if it is damaged."""
    try:
        found = kind.model_validate_json(text)
    except ValidationError:
        return None
    return found if shard is None else found.model_copy(update={"shard": shard})


def _finished(evaluation_id: str, *columns: ColumnElement[Any]) -> Select[Any]:
    """The finished shards of an evaluation, with columns of theirs and of their results."""
    same = (SHARDS.c.address == RESULTS.c.address) & (SHARDS.c.images == RESULTS.c.images)
    identity = (SHARDS.c.address, SHARDS.c.model, SHARDS.c.condition, SHARDS.c.start, SHARDS.c.images)
    here = (SHARDS.c.evaluation_id == evaluation_id, SHARDS.c.status == ShardStatus.DONE)
    return select(*identity, *columns).join_from(SHARDS, RESULTS, same).where(*here)


def _at(
    db: Connection, addresses: Iterable[str], *columns: ColumnElement[Any], images: int | None = None
) -> Iterator[tuple[tuple[str, int], tuple[Any, ...]]]:
    """Read columns of the results at some addresses; yields each address and number of images with them."""
    ordered = sorted(set(addresses))
    for start in range(0, len(ordered), ADDRESSES_A_QUERY):
        here = RESULTS.c.address.in_(ordered[start : start + ADDRESSES_A_QUERY])
        query = select(RESULTS.c.address, RESULTS.c.images, *columns).where(here)
        for row in db.execute(query if images is None else query.where(RESULTS.c.images == images)):
            yield (row.address, row.images), tuple(row)[2:]


def _fairest(db: Connection) -> Row[Any, Any] | None:
    """Id and plan of the evaluation with pending shards and the fewest running ones, the oldest of equals."""
    mine = SHARDS.c.evaluation_id == EVALUATIONS.c.id
    pending = select(SHARDS.c.id).where(mine, SHARDS.c.status == ShardStatus.PENDING)
    running = select(func.count(SHARDS.c.id)).where(mine, SHARDS.c.status == ShardStatus.RUNNING).scalar_subquery()
    query = select(EVALUATIONS.c.id, EVALUATIONS.c.plan).where(pending.exists())
    return db.execute(query.order_by(running, EVALUATIONS.c.sequence).limit(1)).first()


def _insert(db: Connection, plan: Plan) -> bool:
    last = db.execute(select(func.max(EVALUATIONS.c.sequence))).scalar() or 0
    db.execute(
        insert(EVALUATIONS).values(id=plan.id, sequence=last + 1, plan=plan.model_dump_json(), created_at=_now())
    )
    passes = [plan.spec.passes(condition) for condition in plan.spec.conditions]
    addresses = {shard: plan.address(shard) for shard in plan.shards}
    computed = {key: seconds for key, (seconds,) in _at(db, addresses.values(), RESULTS.c.seconds)}
    rows: list[dict[str, Any]] = []
    finished = 0
    for shard, address in addresses.items():
        seconds = computed.get((address, shard.images))
        finished += seconds is not None
        rows.append(
            {
                "evaluation_id": plan.id,
                "model": shard.model,
                "condition": shard.condition,
                "start": shard.start,
                "address": address,
                "images": shard.images,
                "passes": shard.images * passes[shard.condition],
                "status": ShardStatus.PENDING if seconds is None else ShardStatus.DONE,
                "seconds": seconds,
                "finished": None if seconds is None else finished,
            }
        )
    db.execute(insert(SHARDS), rows)
    return True


def _revive(db: Connection, evaluation_id: str) -> bool:
    stopped = SHARDS.c.status.in_([ShardStatus.DROPPED, ShardStatus.FAILED])
    changed = db.execute(
        update(SHARDS)
        .where(SHARDS.c.evaluation_id == evaluation_id, stopped)
        .values(status=ShardStatus.PENDING, failures=0, error=None)
    )
    db.execute(update(EVALUATIONS).where(EVALUATIONS.c.id == evaluation_id).values(cancelled_at=None))
    return changed.rowcount > 0


def _remember_key(db: Connection, key: str, body_sha256: str, evaluation_id: str) -> None:
    known = db.execute(select(KEYS).where(KEYS.c.key == key)).first()
    if known is None:
        db.execute(insert(KEYS).values(key=key, body_sha256=body_sha256, evaluation_id=evaluation_id))
    elif known.body_sha256 != body_sha256:
        raise KeyReusedError(f"the idempotency key {key!r} was used before with another request")


def _find(db: Connection, evaluation_id: str) -> Evaluation | None:
    row = db.execute(select(EVALUATIONS).where(EVALUATIONS.c.id == evaluation_id)).mappings().first()
    return None if row is None else _evaluation(db, row)


def _evaluation_or_damaged(db: Connection, row: RowMapping) -> Evaluation | Damaged:
    try:
        return _evaluation(db, row)
    except DamagedEvaluationError as error:
        return Damaged(row["id"], row["sequence"], str(error))


def _evaluation(db: Connection, row: RowMapping) -> Evaluation:
    try:
        plan = read_plan(row["plan"])
    except ValidationError as error:
        raise DamagedEvaluationError(f"evaluation {row['id']}: {DAMAGED_PLAN}") from error
    query = (
        select(
            SHARDS.c.status,
            func.count().label("shards"),
            func.sum(SHARDS.c.images).label("images"),
            func.sum(SHARDS.c.passes).label("passes"),
            func.sum(SHARDS.c.images_done).label("images_advanced"),
            func.sum(1.0 * SHARDS.c.passes * SHARDS.c.images_done / SHARDS.c.images).label("passes_advanced"),
            func.sum(SHARDS.c.runs).label("runs"),
            func.max(SHARDS.c.error).label("error"),
            func.sum(SHARDS.c.seconds).label("busy_s"),
        )
        .where(SHARDS.c.evaluation_id == row["id"])
        .group_by(SHARDS.c.status)
    )
    groups = {ShardStatus(group["status"]): group for group in db.execute(query).mappings()}
    running = groups.get(ShardStatus.RUNNING)
    errors = [groups[status]["error"] for status in (ShardStatus.FAILED, *groups) if status in groups]
    return Evaluation(
        id=row["id"],
        sequence=row["sequence"],
        plan=plan,
        created_at=datetime.fromtimestamp(row["created_at"], UTC),
        cancelled=row["cancelled_at"] is not None,
        progress=Progress(
            shards={status: group["shards"] for status, group in groups.items()},
            images={status: group["images"] for status, group in groups.items()},
            passes={status: group["passes"] for status, group in groups.items()},
            runs=sum(group["runs"] for group in groups.values()),
            busy_s=sum(group["busy_s"] or 0.0 for group in groups.values()),
            error=next((error for error in errors if error), None),
            images_advanced=running["images_advanced"] if running else 0,
            passes_advanced=running["passes_advanced"] if running else 0.0,
        ),
    )
