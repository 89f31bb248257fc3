"""The durable state: evaluations, their shards and results."""

import logging
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from evaluation.compute.runner import ShardResult, furthest
from evaluation.plan import Plan, Shard
from evaluation.results.tally import Tally
from service.jobs.cutting import begin_to_cut, insert_evaluation, next_shard
from service.jobs.evaluations import Claim, Damaged, Evaluation, Limits, Priority, ShardStatus
from service.jobs.failures import Fault
from service.jobs.labels import has_words
from service.jobs.limits import end_spent, set_limits
from service.jobs.queries import (
    DAMAGED_PLAN,
    DamagedEvaluationError,
    clock,
    described,
    disown,
    drop_unfinished,
    evaluations_among,
    failed,
    fairest_evaluation,
    find_evaluation,
    has_ended,
    is_owned,
    is_repeated,
    own,
    plan_of,
    read_all,
    revive,
    set_priority,
)
from service.jobs.removal.purge import finish_removal, mark_removed, purge_some
from service.jobs.shards import (
    T,
    finish_shard,
    finished_shards,
    of_condition,
    read_stored,
    result_at,
    results_among,
    results_at,
    running_among,
    set_aside,
    shard_of,
    start_shard,
)
from service.jobs.spans import ENDED_TRACES, Traced, forget_ended_traces, remember_trace, trace_of
from service.jobs.webhooks.deliveries import request_delivery
from service.sql.database import Database, StoreError
from service.sql.tables import DISPATCH, EVALUATIONS, KEYS, RESULTS, SHARDS

MAX_FAILURES = 3
"""Failures of a shard (exception, time-out, end of its process by its own fault) after which its evaluation fails."""

MAX_KILLS = 10
"""Kills from outside, while a shard is computed, after which it is no longer tried: it may need more memory than there is."""

STALE_S = 10.0
"""How long a dispatcher may not be seen before another process takes over, seconds."""

_TOKEN = select(DISPATCH.c.token)

_log = logging.getLogger(__name__)


class SupersededError(RuntimeError):
    """This process no longer dispatches: it was not seen for too long, and another one took over."""


class Store:
    """All reads and writes, each in one transaction."""

    def __init__(self, database: Database, token: int | None = None) -> None:
        self.database, self._token = database, token

    @classmethod
    def at(cls, where: Path | str) -> "Store":
        """Open or create a database: an SQLite file, or what a URL names, see `Database`.

        Raises:
            StoreError: it cannot be read or written, is no database, or is of another version.
        """
        try:
            return cls(Database(where if isinstance(where, str) else f"sqlite:///{where}"))
        except StoreError as error:
            advice = "; move it aside, and a new one is made, or name another folder" if isinstance(where, Path) else ""
            raise StoreError(f"{error}{advice}") from error

    def close(self) -> None:
        """Close all connections."""
        self.database.close()

    @contextmanager
    def writing(self) -> Generator[Connection]:
        """Write in one transaction; a store that dispatches raises SupersededError once another one has taken over."""
        with self.database.writing(notify=self._token is None) as db:
            if self._token is not None and db.execute(_TOKEN).scalar() != self._token:
                raise SupersededError("another process has taken the dispatch over")
            yield db

    def take_dispatch(self, *, locked: bool) -> "Store | None":
        """Become the dispatcher, if none is alive; returns a store whose writes end once another one has taken over.

        Args:
            locked: whether the lock is held. A dispatcher that held it is then dead; one that did not, or where it is not
                held now, counts as dead when it was not seen for `STALE_S`.
        """

        def is_alive(db: Connection, last: Row[Any] | None) -> bool:
            return last is not None and not (locked and last.locked) and clock(db) - last.seen_at <= STALE_S

        with self.database.reading() as db:  # a standby asks often, and need not hold up writers
            if is_alive(db, db.execute(select(DISPATCH)).first()):
                return None
        with self.database.writing() as db:
            last = db.execute(select(DISPATCH)).first()
            if is_alive(db, last):
                return None
            token = (last.token if last else 0) + 1
            db.execute(delete(DISPATCH))
            db.execute(insert(DISPATCH).values(token=token, seen_at=clock(db), locked=locked))
        return Store(self.database, token)

    def beat(self, *, locked: bool) -> None:
        """Show that the dispatcher is alive, and whether it holds the lock.

        Raises:
            SupersededError: another one has taken over.
        """
        with self.writing() as db:
            db.execute(update(DISPATCH).values(seen_at=clock(db), locked=locked))

    def leave_dispatch(self) -> None:
        """Let another process take over at once."""
        with suppress(SupersededError), self.writing() as db:
            db.execute(update(DISPATCH).values(seen_at=0.0))

    def submit(
        self,
        plan: Plan,
        *,
        key: str | None = None,
        body_sha256: str = "",
        owner: str = "",
        trace: str | None = None,
        priority: Priority | None = None,
        limits: Limits | None = None,
        webhook: str | None = None,
    ) -> bool:
        """Add an evaluation with all its shards, or revive one that was cancelled or failed; finished shards stay.

        A shard that was computed for another evaluation, with the same address and number of images, is done as soon as it is cut.
        A request that is repeated with its key changes nothing, even if the evaluation was cancelled meanwhile.

        Args:
            plan: its id decides whether it is there already.
            key: an idempotency key of the client.
            body_sha256: of the request that the key came with.
            owner: who asks; each owner has idempotency keys of its own.
            trace: context of the trace that what there is to do belongs to.
            priority: of a new evaluation, normal for None; one that is there is raised to it, but not lowered.
            limits: of a new evaluation, none for None; of one that is there, those that are given and higher replace its own.
            webhook: an address to call when the evaluation has ended.

        Returns:
            Whether there was anything to do.

        Raises:
            KeyReusedError: the key came before with another request.
        """
        shards, uncut = begin_to_cut(plan)
        addresses = {shard: plan.address(shard) for shard in shards}  # it takes long: others may write meanwhile
        with self.writing() as db:
            known = finish_removal(db, plan.id)
            owners_key = f"{owner} {key}"
            if key is not None and is_repeated(db, owners_key, body_sha256):
                return False
            changed = revive(db, plan.id) if known else insert_evaluation(db, plan, addresses, uncut)
            own(db, plan.id, owner)
            if priority is not None:
                set_priority(db, plan.id, priority, only_raise=known)
            if limits is not None:
                set_limits(db, plan.id, limits, only_raise=known)
            elif changed:
                end_spent(db, plan.id)
            if changed and trace is not None:
                remember_trace(db, plan.id, trace)
            if webhook is not None:
                request_delivery(db, plan.id, owner=owner, url=webhook)
            if key is not None:
                db.execute(insert(KEYS).values(key=owners_key, body_sha256=body_sha256, evaluation_id=plan.id))
            return changed

    def computed(self, plan: Plan, shard: Shard) -> ShardResult | None:
        """Read the result of a shard, whatever evaluation it was computed for."""
        with self.database.reading() as db:
            result = result_at(db, plan.address(shard), shard.images)
        return None if result is None else read_stored(ShardResult, result, shard)

    def known(self, plan: Plan, shard: Shard) -> ShardResult | None:
        """Read the result from which a shard has least left to do."""
        with self.database.reading() as db:
            found = [read_stored(ShardResult, text) for text in results_among(db, plan.resumable_addresses(shard))]
        return furthest((each for each in found if each is not None), shard)

    def tallies(self, plan: Plan, shards: Iterable[Shard]) -> list[Tally]:
        """Read the tallies of the shards that are computed, whatever evaluation they were computed for."""
        by_address = {(plan.address(shard), shard.images): shard for shard in shards}
        with self.database.reading() as db:
            found = results_at(db, (address for address, _ in by_address), RESULTS.c.tally)
            read = [read_stored(Tally, tally, by_address[key]) for key, (tally,) in found if key in by_address]
        return [each for each in read if each is not None]

    def finished(self, plan: Plan, shard: Shard) -> list[Tally]:
        """Read the tallies of the evaluation's finished shards of a shard's model and condition."""
        return self._whole(Tally, finished_shards(plan.id, RESULTS.c.tally).where(*of_condition(shard)))

    def finished_after(self, evaluation_id: str, number: int) -> tuple[list[Tally], int]:
        """Read the tallies of the shards that were finished after so many others, and how many are finished now.

        A shard stays finished, and its tally what it is, so that what was read need not be read again.
        """
        last = select(func.coalesce(func.max(SHARDS.c.finished), number)).where(SHARDS.c.evaluation_id == evaluation_id)
        with self.database.reading() as db:
            until = db.execute(last).scalar_one()
        new = (SHARDS.c.finished > number, SHARDS.c.finished <= until)
        return self._whole(Tally, finished_shards(evaluation_id, RESULTS.c.tally).where(*new)), until

    def is_owned(self, evaluation_id: str, owner: str) -> bool:
        """Whether someone asked for an evaluation."""
        with self.database.reading() as db:
            return is_owned(db, evaluation_id, owner)

    def evaluation(self, evaluation_id: str) -> Evaluation | None:
        """Read one evaluation.

        Raises:
            DamagedEvaluationError: its plan cannot be read.
        """
        with self.database.reading() as db:
            return find_evaluation(db, evaluation_id)

    def evaluations(
        self,
        *,
        limit: int | None = None,
        before: int | None = None,
        owner: str | None = None,
        ended: bool = False,
        search: str = "",
    ) -> list[Evaluation | Damaged]:
        """List evaluations, the newest first; one whose plan cannot be read is named with its problem.

        Args:
            limit: at most this many; None is no limit.
            before: only those with a smaller sequence number.
            owner: only those that this one asked for; None is everyone's.
            ended: only those of which nothing is pending or running.
            search: only those in whose id, models, data set or label each of these words occurs.
        """
        query = described(owner).where(has_words(search)).order_by(EVALUATIONS.c.sequence.desc()).limit(limit)
        if before is not None:
            query = query.where(EVALUATIONS.c.sequence < before)
        with self.database.reading() as db:
            return read_all(db, query.where(has_ended()) if ended else query)

    def evaluations_among(self, evaluation_ids: Collection[str]) -> list[Evaluation | Damaged]:
        """Read those of some evaluations that there are, the oldest first, as `evaluations` does."""
        with self.database.reading() as db:
            return evaluations_among(db, evaluation_ids)

    def results(self, evaluation_id: str, like: Shard | None = None) -> list[ShardResult]:
        """Read the finished shards, or those of a shard's model and condition."""
        here = () if like is None else of_condition(like)
        return self._whole(ShardResult, finished_shards(evaluation_id, RESULTS.c.result).where(*here))

    def result(self, evaluation_id: str, shard: Shard) -> ShardResult | None:
        """Read one finished shard."""
        here = (*of_condition(shard), SHARDS.c.start == shard.start)
        return next(iter(self._whole(ShardResult, finished_shards(evaluation_id, RESULTS.c.result).where(*here))), None)

    def _whole(self, kind: type[T], query: Select[Any]) -> list[T]:
        """Read finished shards of one evaluation; what is damaged is set aside, and fails its shards alone."""
        with self.database.reading() as db:
            rows = db.execute(query).all()
        found = [(row.address, read_stored(kind, row[-1], shard_of(row))) for row in rows]
        if damaged := {address for address, each in found if each is None}:
            _log.error("stored results cannot be read and are set aside: %s", ", ".join(sorted(damaged)))
            with self.writing() as db:
                set_aside(db, damaged)
        return [each for _, each in found if each is not None]

    def cancel(self, evaluation_id: str, owner: str | None = None) -> None:
        """Drop what is not finished; if others asked for the evaluation too, it only stops being this owner's."""
        with self.writing() as db:
            if owner is None or not disown(db, evaluation_id, owner):
                drop_unfinished(db, evaluation_id)

    def remove(self, evaluation_id: str) -> Evaluation | Damaged | None:
        """Delete an evaluation with its results, unless it has yet to end; returns it as it was, None if there is none.

        Results that other evaluations have too stay.
        """
        here = (EVALUATIONS.c.id == evaluation_id, EVALUATIONS.c.removed_at.is_(None))
        with self.writing() as db:
            found = next(iter(evaluations_among(db, [evaluation_id])), None)
            if isinstance(found, Damaged) or (found is not None and found.status.final):
                mark_removed(db, *here)
        more = True
        while more:
            with self.writing() as db:
                more = purge_some(db, evaluation_id)
        return found

    def recover(self) -> int:
        """Make shards that were running when the former dispatcher ended pending again; returns their number."""
        with self.writing() as db:
            running = SHARDS.c.status == ShardStatus.RUNNING
            return db.execute(update(SHARDS).where(running).values(status=ShardStatus.PENDING)).rowcount

    def claim(self, device: str | None = None) -> Claim | None:
        """Take the next pending shard, from the evaluation whose turn it is, for a device; the dispatcher alone calls this."""
        while True:
            with self.writing() as db:
                chosen = fairest_evaluation(db)
                if chosen is None:
                    return None
                try:
                    plan = plan_of(db, chosen)
                except DamagedEvaluationError:  # the others go on
                    here = (SHARDS.c.evaluation_id == chosen, SHARDS.c.status == ShardStatus.PENDING)
                    db.execute(update(SHARDS).where(*here).values(**failed(db, DAMAGED_PLAN)))
                    continue
                if row := next_shard(db, plan):
                    start_shard(db, row, device)
                    return Claim(row.id, chosen, plan, shard_of(row), trace_of(db, chosen))

    def advance(self, shares_done: Mapping[int, float]) -> None:
        """Write which share of running shards, by their ids, is done."""
        with self.writing() as db:
            for shard_id, share in shares_done.items():
                here = (SHARDS.c.id == shard_id, SHARDS.c.status == ShardStatus.RUNNING)
                db.execute(update(SHARDS).where(*here).values(share_done=share))

    def complete(self, claim: Claim, result: ShardResult) -> bool:
        """Store a result; returns False, and stores nothing, if the shard was not running (done already, dropped or removed)."""
        with self.writing() as db:
            return finish_shard(db, claim, result)

    def skip(self, claim: Claim) -> None:
        """Drop a claim, if it is not done, and the pending shards of its model and condition: their numbers are certain enough."""
        here = (SHARDS.c.evaluation_id == claim.evaluation_id, *of_condition(claim.shard))
        unfinished = (SHARDS.c.status == ShardStatus.PENDING) | (
            (SHARDS.c.id == claim.id) & (SHARDS.c.status == ShardStatus.RUNNING)
        )
        with self.writing() as db:
            db.execute(update(SHARDS).where(*here, unfinished).values(status=ShardStatus.SKIPPED))

    def fail(self, shard_id: int, error: str, fault: Fault = Fault.SHARD) -> None:
        """Count a failure; after the last try the shard has failed, and nothing more of its evaluation is started.

        What is the device's fault is not counted; kills from outside are counted apart, up to `MAX_KILLS`.
        """
        with self.writing() as db:
            here = (SHARDS.c.id == shard_id, SHARDS.c.status == ShardStatus.RUNNING)
            row = db.execute(select(SHARDS.c.failures, SHARDS.c.kills, SHARDS.c.evaluation_id).where(*here)).first()
            if row is None:
                return
            failures, kills = row.failures + (fault is Fault.SHARD), row.kills + (fault is Fault.OUTSIDE)
            status = ShardStatus.FAILED if failures >= MAX_FAILURES or kills >= MAX_KILLS else ShardStatus.PENDING
            changed = failed(db, error) | {"status": status, "failures": failures, "kills": kills}
            db.execute(update(SHARDS).where(*here).values(**changed))
            of_same = SHARDS.c.evaluation_id == row.evaluation_id
            if db.execute(select(SHARDS.c.id).where(of_same, SHARDS.c.status == ShardStatus.FAILED)).first():
                pending = SHARDS.c.status == ShardStatus.PENDING
                db.execute(update(SHARDS).where(of_same, pending).values(status=ShardStatus.DROPPED))

    def take_ended_traces(self) -> list[Traced]:
        """Forget the traces of evaluations that have ended; returns them, each once."""
        with self.database.reading() as db:
            if db.execute(ENDED_TRACES).first() is None:
                return []
        with self.writing() as db:
            return forget_ended_traces(db)

    def unwanted(self, running: Collection[int]) -> set[int]:
        """Of the ids of running shards, those whose results nobody asks for any more, as when their evaluation was cancelled."""
        with self.database.reading() as db:
            return {*running} - running_among(db, running)
