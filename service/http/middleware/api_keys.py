"""Asks for an API key before anything of a request is read, and slows down who guesses one."""

import time
from collections import OrderedDict
from http import HTTPStatus
from urllib.parse import urlencode

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.accounts.callers import Callers
from service.http.access.keys import given_key, sent_headers
from service.http.access.scopes import needed_scope, refusal
from service.http.access.sessions import session_caller
from service.http.addresses import network
from service.http.middleware.origins import is_own
from service.http.problems import problem

OPEN = frozenset(
    {
        "/healthz",
        "/readyz",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/docs",
        "/openapi.json",
        "/sign-in",
        "/sign-out",
    }
)
"""Probes, which send no key, the description of the API, and where browsers sign in."""

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
    """Lets requests pass that carry a key with the scope they need, or that need none; puts into their scope who the `caller` is.

    Args:
        app: what is behind it.
        callers: whose keys there are.
        root_path: the path prefix of the service.
        failures: counts wrong keys, here and where browsers sign in.
    """

    def __init__(self, app: ASGIApp, callers: Callers, root_path: str, failures: Failures) -> None:
        self._app, self._callers, self._root, self._failures = app, callers, root_path, failures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 401, 403 or 429; a browser is sent to sign in."""
        refused = self._refusal(scope) if scope["type"] == "http" else None
        await (refused or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        path = scope["path"].removeprefix(scope["root_path"])
        if path in OPEN or path.startswith(OPEN_FOLDERS):
            return None
        sent, caller = sent_headers(scope["headers"]), None
        if given := given_key(sent):
            address = network(scope["client"])
            if refused := refuse_guesses(self._failures, address):
                return refused
            caller = self._callers.find(given)
            if caller is None and self._callers.are_known:
                self._failures.add(address)
        elif b"cookie" in sent and (b"origin" not in sent or is_own(Headers(scope=scope))):
            caller = session_caller(Headers(scope=scope), self._callers)
        caller = caller or self._callers.without(given)
        if caller is None:
            is_page = scope["method"] == "GET" and b"text/html" in sent.get(b"accept", b"")
            return self._to_sign_in(scope) if is_page and not given else _unauthorized()
        scope["caller"] = caller
        needed = needed_scope(scope["method"], path)
        return None if caller.scope.covers(needed) else problem(HTTPStatus.FORBIDDEN, refusal(caller, needed))

    def _to_sign_in(self, scope: Scope) -> Response:
        query = scope["query_string"].decode(errors="replace")
        path = scope["path"] if scope["path"].startswith(f"{self._root}/") else self._root + scope["path"]
        wanted = urlencode({"next": path + (f"?{query}" if query else "")})
        return RedirectResponse(f"{self._root}/sign-in?{wanted}", HTTPStatus.SEE_OTHER)


def refuse_guesses(failures: Failures, address: str) -> Response | None:
    """Answer 429 to an address that has sent too many wrong keys of late."""
    wait_s = failures.wait_s(address)
    if not wait_s:
        return None
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
