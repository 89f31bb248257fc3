"""Evaluations that are watched: the database is asked once for all who watch one, however many they are."""

import asyncio
import time
from dataclasses import dataclass

from common import text_sha256
from service.http.schemas import EvaluationView
from service.jobs.store import Store

POLL_S = 0.3
"""How often a watched evaluation is looked at, seconds."""


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
    at: float
    state: asyncio.Task[State | None]


class Watching:
    """Looks at evaluations for event streams; to be used on one event loop.

    Args:
        store: where the evaluations are.
        root: the path prefix of the service.
    """

    def __init__(self, store: Store, root: str) -> None:
        self._store, self._root = store, root
        self._looks: dict[str, _Look] = {}

    async def latest(self, evaluation_id: str) -> State | None:
        """Describe an evaluation as it was at most `POLL_S` ago, without its report; None if there is none any more."""
        now = time.monotonic()
        look = self._looks.get(evaluation_id)
        if look is None or now - look.at >= POLL_S:
            self._looks = {key: each for key, each in self._looks.items() if now - each.at < POLL_S}
            look = _Look(now, asyncio.create_task(asyncio.to_thread(self._read, evaluation_id)))
            self._looks[evaluation_id] = look
        return await asyncio.shield(look.state)

    def _read(self, evaluation_id: str) -> State | None:
        found = self._store.evaluation(evaluation_id)
        return None if found is None else State.of(EvaluationView.of(found, root=self._root))
