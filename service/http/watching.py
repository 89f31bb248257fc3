"""Evaluations that are watched: the database is asked once for all who watch one, however many they are."""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass

from common import text_sha256
from service.http.schemas import EvaluationView
from service.jobs.evaluations import Evaluation
from service.jobs.store import Store

POLL_S = 0.3
"""How often watched evaluations are looked at, seconds."""

PATIENCE_S = 2.0
"""How long a watcher waits for a change before it looks whether its client is still there, seconds."""

WATCHED_S = 3.0
"""How long an evaluation counts as watched after it was asked for, seconds."""


@dataclass(frozen=True)
class State:
    """What watchers are sent; equal states have equal ids, whichever process reads them."""

    id: str
    view: EvaluationView

    @classmethod
    def of(cls, view: EvaluationView) -> "State":
        """Identify a state by all that is sent of it."""
        return cls(text_sha256(view.model_dump_json())[:16], view)


@dataclass(frozen=True)
class _Look:
    """A version of an evaluation, and what watchers are sent of it."""

    version: str
    state: State


class Watching:
    """Looks at all evaluations that are watched at once, for event streams; to be used on one event loop.

    Args:
        store: where the evaluations are.
        root: the path prefix of the service.
    """

    def __init__(self, store: Store, root: str) -> None:
        self._store, self._root = store, root
        self._asked_at: dict[str, float] = {}
        self._looks: dict[str, _Look] = {}
        self._looked_at = 0.0
        self._looking = asyncio.Lock()

    async def next(self, evaluation_id: str, sent: str | None) -> State | None:
        """Wait until an evaluation has another state than the one of an id, or has ended, but not for longer than `PATIENCE_S`."""
        until = time.monotonic() + PATIENCE_S
        while (state := await self.latest(evaluation_id)) is not None:
            if state.id != sent or state.view.status.final or time.monotonic() > until:
                break
            await asyncio.sleep(POLL_S)
        return state

    async def latest(self, evaluation_id: str) -> State | None:
        """Describe an evaluation as it was at most `POLL_S` ago, without its report; None if it cannot be read any more."""
        self._asked_at[evaluation_id] = time.monotonic()
        async with self._looking:
            self._asked_at[evaluation_id] = time.monotonic()  # others may have looked for long
            if evaluation_id not in self._looks or time.monotonic() - self._looked_at >= POLL_S:
                await self._look()
        look = self._looks.get(evaluation_id)
        return None if look is None else look.state

    async def _look(self) -> None:
        now = time.monotonic()
        self._asked_at = {key: at for key, at in self._asked_at.items() if now - at < WATCHED_S}
        self._looks = await asyncio.to_thread(self._read, [*self._asked_at])
        self._looked_at = now

    def _read(self, evaluation_ids: Collection[str]) -> dict[str, _Look]:
        """Read evaluations, and describe those that have changed."""
        looks: dict[str, _Look] = {}
        for found in self._store.evaluations_among(evaluation_ids):
            if isinstance(found, Evaluation):
                version, known = found.version, self._looks.get(found.id)
                if known is None or known.version != version:
                    known = _Look(version, State.of(EvaluationView.of(found, root=self._root)))
                looks[found.id] = known
        return looks
