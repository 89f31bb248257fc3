"""Signed cookies that stand for an API key in a browser: the key is typed once, and is not in the cookie.

A cookie has what only the key's holder can compute, and is signed with what only the service knows, the key's hash. So neither
somebody who reads the database can make a cookie, nor somebody who finds a cookie make it last longer.
"""

import hmac
import time

from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from common import text_sha256
from service.accounts.callers import Caller, Callers
from service.accounts.keys import session_secret

COOKIE = "withstand_session"

SESSION_S = 12 * 3600
"""How long a browser stays signed in, seconds."""


def issue(key: str) -> str:
    """Make the value of a cookie, which ends after `SESSION_S`, or with the key if that is earlier."""
    expires = f"{time.time() + SESSION_S:.0f}"
    return f"{expires}.{session_secret(key)}.{_signature(text_sha256(key), expires)}"


def session_caller(headers: Headers, callers: Callers) -> Caller | None:
    """Whose key a request's cookie stands for; None if it has no cookie, or one that is forged, or has ended."""
    expires, _, rest = cookie_parser(headers.get("cookie", "")).get(COOKIE, "").partition(".")
    if not (expires.isascii() and expires.isdigit() and len(expires) < 15 and int(expires) > time.time()):
        return None
    secret, _, signature = rest.partition(".")
    found = callers.of_session(secret)
    if found is None:
        return None
    right, given = _signature(found.sha256, expires).encode(), signature.encode(errors="replace")
    return found.caller if hmac.compare_digest(right, given) else None


def _signature(key_sha256: str, expires: str) -> str:
    return hmac.new(key_sha256.encode(), f"withstand session until {expires}".encode(), "sha256").hexdigest()
