"""Asks for an API key before anything of a request is read, and slows down who guesses one."""

import time
from collections import OrderedDict
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.addresses import network
from service.http.keys import given_key, is_one_of
from service.http.problems import problem
from service.settings import Settings

OPEN = frozenset({"/healthz", "/readyz", "/v2", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"})
"""Probes, which send no key, and the description of the API."""

OPEN_FOLDERS = ("/static/", "/static-offline-docs/")

ALLOWED_FAILURES = 10
"""Wrong keys from one address in a window; after them it is refused until the window ends, whatever key it sends."""

WINDOW_S = 60.0

MOST_ADDRESSES = 10_000
"""Whose failures are remembered; the one that failed first is forgotten first."""


class Failures:
    """Counts wrong keys by address."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()  # beginning of the window, failures in it

    def wait_s(self, address: str) -> float:
        """Seconds until an address may try again; 0 if it may now."""
        began, count = self._counts.get(address, (0.0, 0))
        return max(0.0, began + WINDOW_S - time.monotonic()) if count >= ALLOWED_FAILURES else 0.0

    def add(self, address: str) -> None:
        """Count a failure."""
        now = time.monotonic()
        began, count = self._counts.get(address, (now, 0))
        if now >= began + WINDOW_S:
            began, count = now, 0
            self._counts.pop(address, None)
        self._counts[address] = (began, count + 1)
        while len(self._counts) > MOST_ADDRESSES:
            self._counts.popitem(last=False)


class ApiKeys:
    """Lets requests pass that carry one of the keys, or that need none.

    Args:
        app: what is behind it.
        settings: with the keys; without any, every request passes.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._required = app, bool(settings.api_keys)
        self._keys = settings.api_keys | settings.admin_keys
        self._failures = Failures()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 401 or 429."""
        refused = self._refusal(scope) if self._keys and scope["type"] == "http" else None
        await (refused or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        path = scope["path"].removeprefix(scope["root_path"])
        if path in OPEN or path.startswith(OPEN_FOLDERS):
            return None
        address, given = network(scope["client"]), given_key(Headers(scope=scope))
        if given and (wait_s := self._failures.wait_s(address)):
            return _too_many(address, wait_s)
        if given and is_one_of(self._keys, given):
            return None
        if given:
            self._failures.add(address)
        return _unauthorized() if self._required else None


def _too_many(address: str, wait_s: float) -> Response:
    detail = (
        f"{address} sent {ALLOWED_FAILURES} wrong API keys within {WINDOW_S:g} s; it can try again in {wait_s:.0f} s"
    )
    return problem(HTTPStatus.TOO_MANY_REQUESTS, detail, headers={"Retry-After": str(int(wait_s) + 1)})


def _unauthorized() -> Response:
    answer = problem(
        HTTPStatus.UNAUTHORIZED, "an API key is needed: send `Authorization: Bearer KEY` or `X-API-Key: KEY`"
    )
    for scheme in ("Bearer", 'Basic realm="withstand"'):  # a line each: a browser understands the second alone
        answer.headers.append("WWW-Authenticate", scheme)
    return answer
