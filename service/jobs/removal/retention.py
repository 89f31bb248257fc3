"""How long evaluations that have ended are kept: by their age, and by the size of all results."""

import logging
import time
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Select, select, update

from service.jobs.queries import clock, has_ended, total
from service.jobs.removal.purge import mark_removed, purge_some, removed_evaluation
from service.jobs.store import Store
from service.sql.tables import DELIVERIES, EVALUATIONS, RESULTS

SWEEP_S = 60.0
"""How often is looked what is to be removed, seconds."""

BUDGET_S = 0.2
"""How long removing holds up the dispatcher at a time, seconds; what is left follows in its next turn."""

DAY_S = 86_400.0

KEPT_S = 3600.0
"""How long an evaluation is kept after its end whatever its size, seconds: someone may be about to read it."""

_log = logging.getLogger(__name__)


class Retention:
    """Removes evaluations that have ended, the oldest first; the dispatcher calls it.

    Results that other evaluations have too stay, and so do evaluations with a webhook that is not delivered yet.

    Args:
        keep_days: how long an evaluation is kept after its end, days; None is for ever.
        keep_gb: how much all stored results may take, 10^9 bytes, as far as that is those of ended evaluations; None is any amount.
    """

    def __init__(self, keep_days: float | None = None, keep_gb: float | None = None) -> None:
        self._keep_days, self._keep_gb = keep_days, keep_gb
        self._due = 0.0

    def sweep(self, store: Store) -> None:
        """Do what is due, in small transactions and for a short time."""
        if time.monotonic() < self._due:
            return
        _note_ended(store)
        until = time.monotonic() + BUDGET_S
        while (more := self._take_step(store)) and time.monotonic() < until:
            pass
        self._due = 0.0 if more else time.monotonic() + SWEEP_S

    def _take_step(self, store: Store) -> bool:
        with store.database.reading() as db:
            removed = removed_evaluation(db)
        if removed is not None:
            with store.writing() as db:
                purge_some(db, removed)
            return True
        return self._remove_next(store) or store.database.give_back_space()

    def _remove_next(self, store: Store) -> bool:
        """Remove the oldest evaluation that is too old or too much."""
        with store.database.reading() as db:
            now, oldest = clock(db), db.execute(_ended().limit(1)).first()
            size = None if self._keep_gb is None else db.execute(select(total(RESULTS.c.bytes))).scalar_one()
        reason = None if oldest is None else self._reason(now - oldest.ended_at, size)
        if oldest is None or reason is None:
            return False
        with store.writing() as db:
            mark_removed(db, EVALUATIONS.c.id == oldest.id, _is_removable())
        ended_at = datetime.fromtimestamp(oldest.ended_at, UTC)
        _log.info("evaluation %s ended %s and is removed: %s", oldest.id, f"{ended_at:%Y-%m-%d %H:%M} UTC", reason)
        return True

    def _reason(self, age_s: float, size: int | None) -> str | None:
        if self._keep_days is not None and age_s > DAY_S * self._keep_days:
            return f"it is kept for {self._keep_days:g} days"
        if size is not None and self._keep_gb is not None and size > 1e9 * self._keep_gb and age_s > KEPT_S:
            return f"results take {size / 1e9:.3g} GB, and {self._keep_gb:g} are kept"
        return None


def _note_ended(store: Store) -> None:
    """Write down that evaluations have ended, which nothing else has to know."""
    new = (EVALUATIONS.c.ended_at.is_(None), has_ended())
    with store.database.reading() as db:
        if db.execute(select(EVALUATIONS.c.id).where(*new).limit(1)).first() is None:
            return
    with store.writing() as db:
        db.execute(update(EVALUATIONS).where(*new).values(ended_at=clock(db)))


def _ended() -> Select[*tuple[object, ...]]:
    return select(EVALUATIONS.c.id, EVALUATIONS.c.ended_at).where(_is_removable()).order_by(EVALUATIONS.c.ended_at)


def _is_removable() -> ColumnElement[bool]:
    undelivered = select(DELIVERIES.c.id).where(DELIVERIES.c.evaluation_id == EVALUATIONS.c.id)
    there = EVALUATIONS.c.removed_at.is_(None) & EVALUATIONS.c.ended_at.is_not(None)
    return there & has_ended() & ~undelivered.exists()
