"""Who asks, by the API key that was sent: one of the settings, or one of the database as it was a second ago."""

import logging
import time
from collections.abc import Mapping, Sequence
from math import inf
from threading import Event, Thread
from typing import Any, NamedTuple

from sqlalchemy import Row, select

from common import text_sha256
from service.accounts.keys import Scope, session_secret
from service.settings import Settings, is_loopback
from service.sql.database import Database, StoreError
from service.sql.tables import API_KEYS

REFRESH_S = 1.0
"""After how long a key that was made or revoked counts as that, seconds."""

_log = logging.getLogger(__name__)


class Caller(NamedTuple):
    """Who asks: `name` stands for the key in the database, `key` is its name for people; both are "" without a key."""

    name: str
    scope: Scope
    key: str = ""

    @property
    def owner(self) -> str | None:
        """Whose evaluations are seen, and changed as far as the scope goes; None is everyone's."""
        return self.name if self.scope is Scope.SUBMIT else None

    @property
    def is_admin(self) -> bool:
        """Whether what is served may be changed."""
        return self.scope is Scope.ADMIN


class Known(NamedTuple):
    """A key that is accepted until it expires, in seconds since 1970, UTC."""

    caller: Caller
    sha256: str
    session_sha256: str
    expires_at: float = inf


class _Keys(NamedTuple):
    """All keys at some moment, by their hashes: nobody can steer a hash, so that the time of a lookup tells nothing."""

    anonymous: Caller | None
    by_key: Mapping[str, Known]
    by_session: Mapping[str, Known]


class Callers:
    """Distinguishes callers by their keys.

    Those of `admin_keys` are good for everything; those of the database for what their scope says. The keys of `api_keys` are
    good for everything as long as no admin key has ever been there, and for `submit` from then on; so are requests without a key
    where none is needed: on this machine, as long as neither settings nor database have ever had a key.

    Args:
        settings: with keys of their own.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = self._merged([])
        self._stopped = Event()
        self._thread: Thread | None = None

    @property
    def are_needed(self) -> bool:
        """Whether a request without a key is refused."""
        return self._keys.anonymous is None

    @property
    def are_known(self) -> bool:
        """Whether there is any key."""
        return bool(self._keys.by_key)

    def find(self, key: str) -> Caller | None:
        """Whose key it is; None if it is none, or has expired or was revoked."""
        found = self._keys.by_key.get(text_sha256(key))
        return found.caller if found is not None and found.expires_at > time.time() else None

    def of_session(self, secret: str) -> Known | None:
        """The key that a browser has signed in with, by its `session_secret`."""
        found = self._keys.by_session.get(text_sha256(secret))
        return found if found is not None and found.expires_at > time.time() else None

    def without(self, key: str) -> Caller | None:
        """Who asks without one of the keys, named by whatever was sent as a key; None where a key is needed."""
        anonymous = self._keys.anonymous
        return anonymous._replace(name=_name(key)) if key and anonymous is not None else anonymous

    def start(self, database: Database) -> None:
        """Read the keys of a database, and from now on again every second.

        Raises:
            StoreError: it cannot be read.
        """
        self.refresh(database)
        self._thread = Thread(target=self._follow, args=(database,), name="callers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read no more."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def refresh(self, database: Database) -> None:
        """Read the keys of a database now; raises StoreError where it cannot be read."""
        with database.reading() as db:
            self._keys = self._merged(db.execute(select(API_KEYS)).all())

    def _follow(self, database: Database) -> None:
        failed = False
        while not self._stopped.wait(REFRESH_S):
            try:
                self.refresh(database)
                failed = False
            except StoreError as error:
                if not failed:
                    _log.warning("the API keys that were known stay valid: %s", error)
                failed = True

    def _merged(self, rows: Sequence[Row[Any]]) -> _Keys:
        settings = self._settings
        has_admin = bool(settings.admin_keys) or any(row.scope == Scope.ADMIN for row in rows)
        general = Scope.SUBMIT if has_admin else Scope.ADMIN
        scopes = dict.fromkeys(settings.api_keys, general) | dict.fromkeys(settings.admin_keys, Scope.ADMIN)
        known = [_stored(row) for row in rows if row.revoked_at is None]
        known += [_of_settings(key, scope) for key, scope in scopes.items()]
        are_needed = bool(settings.api_keys or rows) or not is_loopback(settings.host)
        by_key, by_session = {each.sha256: each for each in known}, {each.session_sha256: each for each in known}
        return _Keys(None if are_needed else Caller("", general), by_key, by_session)


def _stored(row: Row[Any]) -> Known:
    caller = Caller(row.sha256[:16], Scope(row.scope), row.name)
    return Known(caller, row.sha256, row.session_sha256, inf if row.expires_at is None else row.expires_at)


def _of_settings(key: str, scope: Scope) -> Known:
    caller = Caller(_name(key), scope, _name(key))
    return Known(caller, text_sha256(key), text_sha256(session_secret(key)))


def _name(key: str) -> str:
    return text_sha256(key)[:16] if key else ""
