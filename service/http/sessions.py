"""Signed cookies that stand for an API key in a browser: the key is typed once, and is not in the cookie."""

import hmac
import time
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.requests import cookie_parser

COOKIE = "withstand_session"

SESSION_S = 12 * 3600
"""How long a browser stays signed in, seconds."""


def issue(key: str) -> str:
    """Make the value of a cookie: when it ends, signed with the key, so that it ends too when the key is withdrawn."""
    expires = f"{time.time() + SESSION_S:.0f}"
    return f"{expires}.{_signature(key, expires)}"


def session_key(headers: Headers, keys: Iterable[str]) -> str | None:
    """The key that a request's cookie stands for; None if it has no cookie, or one that is forged, or has ended."""
    expires, _, signature = cookie_parser(headers.get("cookie", "")).get(COOKIE, "").partition(".")
    if not (expires.isascii() and expires.isdigit() and len(expires) < 15 and int(expires) > time.time()):
        return None
    given = signature.encode(errors="replace")
    matching = [key for key in keys if hmac.compare_digest(_signature(key, expires).encode(), given)]
    return matching[0] if matching else None


def _signature(key: str, expires: str) -> str:
    return hmac.new(key.encode(), f"withstand session until {expires}".encode(), "sha256").hexdigest()
