"""API keys, as requests carry them."""

import binascii
from base64 import b64decode
from collections.abc import Mapping, Sequence
from contextlib import suppress


def sent_headers(headers: Sequence[tuple[bytes, bytes]]) -> Mapping[bytes, bytes]:
    """Headers by name, of several of a name the first: every request is looked at, for which Starlette's `Headers` are slow."""
    return dict(reversed(headers))


def given_key(sent: Mapping[bytes, bytes]) -> str:
    """Read the key, "" if there is none; a browser asks its user for it and sends it as the password of any name."""
    scheme, _, token = sent.get(b"authorization", b"").partition(b" ")
    match scheme.lower():
        case b"bearer":
            return token.decode("latin-1")
        case b"basic":
            with suppress(binascii.Error, UnicodeDecodeError):
                return b64decode(token, validate=True).decode().partition(":")[2]
            return ""
        case _:
            return sent.get(b"x-api-key", b"").decode("latin-1")
