"""Webhooks that wait for the end of an evaluation, or for another try; each function within a transaction."""

from uuid import uuid4

from sqlalchemy import Connection, delete, insert, select, update

from service.jobs.evaluations import Delivery
from service.jobs.queries import DESCRIBED, clock, evaluations_in, has_ended
from service.sql.tables import DELIVERIES, EVALUATIONS


def request_delivery(db: Connection, evaluation_id: str, *, owner: str, url: str) -> None:
    """Remember to call a webhook at the end of an evaluation, in place of a call that still waits."""
    same = (DELIVERIES.c.evaluation_id == evaluation_id, DELIVERIES.c.owner == owner, DELIVERIES.c.url == url)
    db.execute(delete(DELIVERIES).where(*same))
    row = {"id": uuid4().hex, "evaluation_id": evaluation_id, "owner": owner, "url": url}
    db.execute(insert(DELIVERIES).values(**row, tries=0, due_at=0.0))


def due_deliveries(db: Connection, limit: int) -> list[Delivery]:
    """The webhooks that are to be called now, those first that have waited longest."""
    due = (has_ended(), DELIVERIES.c.due_at <= clock(db))
    call = (DELIVERIES.c.id.label("delivery"), DELIVERIES.c.url, DELIVERIES.c.tries)
    query = select(*DESCRIBED, *call).join_from(EVALUATIONS, DELIVERIES).where(*due)
    rows = db.execute(query.order_by(DELIVERIES.c.due_at).limit(limit)).mappings().all()
    found = zip(evaluations_in(db, rows), rows, strict=True)
    return [Delivery(row["delivery"], row["url"], row["tries"], each) for each, row in found]


def settle_delivery(db: Connection, delivery: Delivery, retry_after_s: float | None) -> None:
    """Count a try: the next one follows after a pause, or the webhook is forgotten."""
    here = DELIVERIES.c.id == delivery.id
    if retry_after_s is None:
        db.execute(delete(DELIVERIES).where(here))
    else:
        later = {"tries": delivery.tries + 1, "due_at": clock(db) + retry_after_s}
        db.execute(update(DELIVERIES).where(here).values(**later))
