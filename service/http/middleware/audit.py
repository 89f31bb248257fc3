"""Writes down who changed what, as far as requests do that."""

from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.accounts.audit import Change, record
from service.accounts.callers import Caller
from service.http.access.scopes import is_change
from service.http.problems import LONGEST_ECHO, shortened


class Audit:
    """Records requests of a known caller that change something, also of those that were refused, and of every sign-in.

    Requests that were refused for lack of a key are not recorded, so that strangers cannot fill the disk.

    Args:
        app: what is behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and record it before it is answered; a request that ends without an answer has the status 500."""
        if scope["type"] != "http" or not is_change(scope["method"], _path(scope)):
            await self._app(scope, receive, send)
            return
        is_recorded = False

        async def send_recorded(message: Message) -> None:
            nonlocal is_recorded
            if message["type"] == "http.response.start":
                is_recorded = True
                _record(scope, message["status"], Headers(raw=message["headers"]))
            await send(message)

        try:
            await self._app(scope, receive, send_recorded)
        finally:
            if not is_recorded:
                _record(scope, 500, Headers())


def _record(scope: Scope, status: int, headers: Headers) -> None:
    caller: Caller | None = scope.get("caller")
    if caller is None and not (_path(scope) == "/sign-in" and status == 401):
        return
    route: Any = scope.get("route")
    change = Change(
        key=caller.key if caller else "",
        scope=caller.scope if caller else "",
        address=scope["client"][0] if scope["client"] else "",
        method=scope["method"],
        route=getattr(route, "path", ""),
        target=shortened(_target(scope, status, headers), LONGEST_ECHO),
        status=status,
    )
    record(change)


def _target(scope: Scope, status: int, headers: Headers) -> str:
    """What was changed: the path, or that of what was made; a removal differs from a cancellation by a parameter."""
    if status in {201, 202} and "location" in headers:
        return headers["location"]
    removes = parse_qs(scope["query_string"].decode("latin-1")).get("results", [])
    return _path(scope) + "".join(f"?results={each}" for each in removes)


def _path(scope: Scope) -> str:
    return scope["path"].removeprefix(scope["root_path"])
