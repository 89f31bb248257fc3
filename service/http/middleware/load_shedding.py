"""Refuses predictions that there is no room for before anything of them is read, parsed or routed: a refusal must cost little."""

import asyncio
import time
from typing import cast

from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.deps import Service
from service.http.problems import known_problem
from service.serving.errors import OverloadedError

PREDICTING = ("/predict", "/classify", "/infer")
"""How the paths of predictions end."""

AT_ONCE = 50
"""Refusals a second that are answered at once. Clients that ask again without a pause could otherwise fill a core with refusals."""

PAUSE_S = 1.0
"""How long further ones are held back: as long as their Retry-After asks for at least."""


class LoadShedding:
    """Lets requests pass while some device has room for another picture.

    Args:
        app: what is behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._second, self._refused = 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 503 with Retry-After."""
        answer = self._app
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith(PREDICTING):
            try:
                cast(Service, scope["app"].state.service).scheduler.require_room()
            except OverloadedError as error:
                await self._pause()
                answer = known_problem(error)
        await answer(scope, receive, send)

    async def _pause(self) -> None:
        second = int(time.monotonic())
        self._refused = self._refused + 1 if second == self._second else 1
        self._second = second
        if self._refused > AT_ONCE:
            await asyncio.sleep(PAUSE_S)
