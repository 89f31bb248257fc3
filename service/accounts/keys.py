"""API keys that are made, listed and revoked by command; the database has hashes of them alone.

A key has 256 random bits. Nobody finds it from its SHA-256 by trying, so that it needs no slow hash, as passwords do.
"""

import hmac
import re
import secrets
import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, insert, select, update

from common import text_sha256, unknown_name
from common.validation import Frozen
from service.sql.database import Database
from service.sql.tables import API_KEYS

PREFIX = "wst_"
"""How a key begins, so that it is recognised where it should not be."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Scope(StrEnum):
    """What a key is good for; each scope may do more than the one before."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"

    def covers(self, needed: "Scope") -> bool:
        """Whether it is good for what needs another scope."""
        return self is needed or self is Scope.ADMIN or needed is Scope.READ


class ApiKey(Frozen):
    """What is known of a key; the key itself is not."""

    name: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def create_key(database: Database, name: str, scope: Scope, *, expires_at: float | None = None) -> str:
    """Make a key, and return it: it cannot be read again.

    Args:
        database: of the service.
        name: says whose key it is or what for, and is free again once the key is revoked.
        scope: what the key is good for.
        expires_at: when it ends, in seconds since 1970, UTC; None is never.

    Raises:
        ValueError: the name is none, or taken.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"a key's name has 1 to 64 letters, digits, dots, dashes or underscores, unlike {name!r}")
    key = PREFIX + secrets.token_urlsafe(32)
    row = {"sha256": text_sha256(key), "session_sha256": text_sha256(session_secret(key)), "name": name}
    with database.writing() as db:
        if db.execute(select(API_KEYS.c.name).where(*_usable(name))).first():
            raise ValueError(f"there is a key {name!r} already; revoke it, or choose another name")
        db.execute(insert(API_KEYS).values(**row, scope=scope, created_at=time.time(), expires_at=expires_at))
    return key


def revoke_key(database: Database, name: str) -> ApiKey:
    """Revoke a key for good.

    Raises:
        UnknownNameError: no key that could be revoked has the name.
    """
    with database.writing() as db:
        found = db.execute(select(API_KEYS.c.sha256).where(*_usable(name))).scalar()
        if found is None:
            raise unknown_name("key", name, db.execute(select(API_KEYS.c.name).where(*_usable())).scalars())
        here = API_KEYS.c.sha256 == found
        db.execute(update(API_KEYS).where(here).values(revoked_at=time.time()))
        return _described(db.execute(select(API_KEYS).where(here)).one())


def list_keys(database: Database) -> list[ApiKey]:
    """List all keys, the newest first; revoked ones too."""
    with database.reading() as db:
        return [_described(row) for row in db.execute(select(API_KEYS).order_by(API_KEYS.c.created_at.desc()))]


def session_secret(key: str) -> str:
    """What a browser sends in place of a key, from which the key cannot be found."""
    return hmac.new(key.encode(), b"withstand session", "sha256").hexdigest()


def _usable(*names: str) -> list[Any]:
    return [API_KEYS.c.revoked_at.is_(None), *(API_KEYS.c.name == name for name in names)]


def _described(row: Row[Any]) -> ApiKey:
    times = (row.created_at, row.expires_at, row.revoked_at)
    created, expires, revoked = (None if each is None else datetime.fromtimestamp(each, UTC) for each in times)
    facts = {"created_at": created, "expires_at": expires, "revoked_at": revoked}
    return ApiKey.model_validate({"name": row.name, "scope": row.scope} | facts)
