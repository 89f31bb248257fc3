"""Spans of evaluations and their shards, in the trace of the request that set them going; what a killed process did has none."""

import time
from concurrent.futures import Future
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, insert, select

from evaluation import ShardResult
from service import tracing
from service.jobs.evaluations import Claim, Damaged, Evaluation, Status
from service.jobs.queries import DESCRIBED, evaluations_of, has_ended, now
from service.sql.tables import EVALUATIONS, TRACES


@dataclass(frozen=True)
class Traced:
    """An evaluation that has ended, the trace it belongs to, and when it was set going, in seconds since 1970."""

    evaluation: Evaluation | Damaged
    trace: str
    since: float


_TRACE_OF = select(TRACES.c.context).where(TRACES.c.evaluation_id == bindparam("its_evaluation"))

ENDED_TRACES = select(*DESCRIBED, TRACES.c.context, TRACES.c.since).join_from(EVALUATIONS, TRACES).where(has_ended())
"""The evaluations with a trace of which nothing is pending or running any more; asked for at every turn of the dispatcher."""


def remember_trace(db: Connection, evaluation_id: str, context: str) -> None:
    """Remember the trace of the request that set an evaluation going, in place of an earlier one."""
    db.execute(delete(TRACES).where(TRACES.c.evaluation_id == evaluation_id))
    db.execute(insert(TRACES).values(evaluation_id=evaluation_id, context=context, since=now()))


def trace_of(db: Connection, evaluation_id: str) -> str | None:
    """The trace that an evaluation belongs to."""
    return db.execute(_TRACE_OF, {"its_evaluation": evaluation_id}).scalar()


def forget_ended_traces(db: Connection) -> list[Traced]:
    """Forget the traces of evaluations that have ended, and return them."""
    rows = db.execute(ENDED_TRACES).mappings().all()
    db.execute(delete(TRACES).where(TRACES.c.evaluation_id.in_([row["id"] for row in rows])))
    found = zip(rows, evaluations_of(db, rows), strict=True)
    return [Traced(each, row["context"], row["since"]) for row, each in found]


def record_shard(claim: Claim, future: "Future[ShardResult]", *, device: str, since_ns: int) -> None:
    """Record one run of a shard, however it ended, from when it was handed out until now."""
    if claim.trace is None:
        return
    ended_ns, shard = time.time_ns(), claim.shard
    error = None if future.cancelled() else future.exception()
    status = Status.CANCELLED if future.cancelled() else Status.DONE if error is None else Status.FAILED
    attributes = {
        "withstand.evaluation": claim.evaluation_id,
        "withstand.model": shard.model,
        "withstand.condition": claim.plan.spec.conditions[shard.condition].title,
        "withstand.start": shard.start,
        "withstand.images": shard.images,
        "withstand.device": device,
        "withstand.status": status,
    }
    message = None if error is None else str(error)
    tracing.record("shard", attributes, began_ns=since_ns, ended_ns=ended_ns, parent=claim.trace, error=message)


def log_fields(claim: Claim, device: str) -> dict[str, str | int]:
    """What the log says of a shard beside a message."""
    shard = claim.shard
    fields = {"job": claim.evaluation_id, "model": shard.model, "device": device}
    fields["condition"] = claim.plan.spec.conditions[shard.condition].title
    trace = None if claim.trace is None else tracing.trace_id(claim.trace)
    return {**fields, "start": shard.start} | ({} if trace is None else {"trace_id": trace})


def record_evaluation(ended: Traced) -> None:
    """Record an evaluation from when it was set going until now."""
    began_ns, ended_ns, found = round(1e9 * ended.since), time.time_ns(), ended.evaluation
    if isinstance(found, Damaged):
        status, error = Status.FAILED, found.problem
    else:
        status, error = found.status, found.progress.error if found.status is Status.FAILED else None
    attributes = {"withstand.evaluation": found.id, "withstand.status": status}
    tracing.record("evaluation", attributes, began_ns=began_ns, ended_ns=ended_ns, parent=ended.trace, error=error)
