"""Refuses requests for other hosts: a page could have its own name resolved to this address, and then read and change everything.

Starlette's TrustedHostMiddleware answers in plain text, and knows no addresses.
"""

import ipaddress
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.problems import LONGEST_ECHO, problem
from service.settings import LOOPBACK_NAMES, PREFIX


class Hosts:
    """Lets requests pass for a name that is allowed, or for an address: no resolver can point an address elsewhere.

    Args:
        app: what is behind it.
        allowed: names without port; "*" lets every name pass.
    """

    def __init__(self, app: ASGIApp, allowed: Iterable[str]) -> None:
        self._app = app
        self._allowed = {each.lower() for each in allowed} | LOOPBACK_NAMES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 421."""
        answer = self._app
        if scope["type"] == "http" and "*" not in self._allowed:
            given = Headers(scope=scope).getlist("host")
            if any(not self._is_allowed(each) for each in given) or len(given) > 1:
                answer = problem(
                    HTTPStatus.MISDIRECTED_REQUEST,
                    f"the request is for the host {', '.join(given)[:LONGEST_ECHO]!r}; it must be an address, "
                    f"one of {', '.join(sorted(self._allowed))}, or listed in {PREFIX}ALLOWED_HOSTS",
                )
        await answer(scope, receive, send)

    def _is_allowed(self, header: str) -> bool:
        host = header.rpartition(":")[0] if header.rpartition(":")[2].isdecimal() else header
        if host.lower() in self._allowed:
            return True
        with suppress(ValueError):
            ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
            return True
        return False
