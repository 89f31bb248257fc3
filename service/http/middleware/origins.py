"""Refuses changes that pages of other sites ask for: their readers' browsers reach this service, and send stored passwords."""

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.problems import LONGEST_ECHO, problem
from service.http.scopes import READING


class Origins:
    """Lets requests pass that only read, that no browser sent, that a page of this service sent, or that carry an API key.

    A browser says where a request comes from, in `Sec-Fetch-Site` or in `Origin`; a page of another site cannot set a header
    that carries a key without being asked for permission first, which is never given. Other clients send neither.

    Args:
        app: what is behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 403."""
        answer = self._app
        if scope["type"] == "http" and scope["method"] not in READING:
            headers = Headers(scope=scope)
            if not (_is_own(headers) or _has_key(headers)):
                origin = headers.get("origin", "another site")[:LONGEST_ECHO]
                answer = problem(
                    HTTPStatus.FORBIDDEN,
                    f"a page of {origin} sent this {scope['method']}; only pages of this service may do that, and clients "
                    "that are no browsers",
                )
        await answer(scope, receive, send)


def _is_own(headers: Headers) -> bool:
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site in {"same-origin", "none"}
    return origin is None or origin.partition("://")[2] == headers.get("host", "")


def _has_key(headers: Headers) -> bool:
    return "x-api-key" in headers or headers.get("authorization", "").lower().startswith("bearer ")
