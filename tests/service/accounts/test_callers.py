"""Which keys are accepted, what they are good for, and when one is needed."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from service.accounts.callers import Callers
from service.accounts.keys import Scope, create_key, revoke_key, session_secret
from service.jobs.store import Store
from service.settings import Settings
from service.sql.database import StoreError

API, ADMIN = {"api_keys": frozenset({"general"})}, {"admin_keys": frozenset({"owner"})}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.at(tmp_path / "withstand.db")) as opened:
        yield opened


def scopes(callers: Callers) -> dict[str, str | None]:
    """What the keys of the settings and a request without a key are good for."""
    found = {"general": callers.find("general"), "owner": callers.find("owner"), "none": callers.without("")}
    return {name: caller and caller.scope.value for name, caller in found.items()}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"general": None, "owner": None, "none": "admin"}),
        (API, {"general": "admin", "owner": None, "none": None}),
        (ADMIN, {"general": None, "owner": "admin", "none": "submit"}),
        (API | ADMIN, {"general": "submit", "owner": "admin", "none": None}),
        ({"host": "0.0.0.0"}, {"general": None, "owner": None, "none": None}),
    ],
    ids=["no keys", "api keys", "admin keys", "both", "beyond this machine"],
)
def test_the_keys_of_the_settings(settings: dict[str, Any], expected: dict[str, str | None]) -> None:
    assert scopes(Callers(Settings(**settings))) == expected


def test_one_key_in_the_database_makes_keys_needed_even_once_it_is_revoked(store: Store) -> None:
    callers = Callers(Settings())
    create_key(store.database, "dashboard", Scope.READ)
    for _ in range(2):
        callers.refresh(store.database)
        assert callers.are_needed
        assert callers.without("") is None
        revoke_key(store.database, "dashboard") if callers.are_known else None
    callers.refresh(store.database)
    assert not callers.are_known


def test_the_first_admin_key_takes_that_scope_from_the_others_for_good(store: Store) -> None:
    callers = Callers(Settings(**API))
    create_key(store.database, "laptop", Scope.SUBMIT)
    callers.refresh(store.database)
    assert scopes(callers)["general"] == "admin", "there is no admin key"
    create_key(store.database, "root", Scope.ADMIN)
    callers.refresh(store.database)
    assert scopes(callers)["general"] == "submit"
    revoke_key(store.database, "root")
    callers.refresh(store.database)
    assert scopes(callers)["general"] == "submit", "revoking an admin key must make nobody an admin"


def test_a_key_is_accepted_until_it_is_revoked_or_expires(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    key = create_key(store.database, "laptop", Scope.SUBMIT, expires_at=now + 60)
    callers = Callers(Settings())
    assert callers.find(key) is None
    callers.refresh(store.database)
    caller = callers.find(key)
    assert caller is not None
    assert (caller.key, caller.scope, len(caller.name)) == ("laptop", Scope.SUBMIT, 16)
    session = callers.of_session(session_secret(key))
    assert session is not None
    assert session.caller == caller
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert callers.find(key) is callers.of_session(session_secret(key)) is None
    monkeypatch.setattr(time, "time", lambda: now)
    revoke_key(store.database, "laptop")
    callers.refresh(store.database)
    assert callers.find(key) is callers.of_session(session_secret(key)) is None
    assert callers.find(caller.name) is callers.of_session(session.session_sha256) is None, "a hash is no key"


def test_keys_that_are_known_outlive_the_database(store: Store, tmp_path: Path) -> None:
    key = create_key(store.database, "laptop", Scope.SUBMIT)
    callers = Callers(Settings())
    callers.refresh(store.database)
    (tmp_path / "withstand.db").unlink()
    with pytest.raises(StoreError):
        callers.refresh(store.database)
    assert callers.find(key)


def test_read_and_admin_keys_see_everything_and_the_others_their_own(store: Store) -> None:
    callers = Callers(Settings())
    keys = {scope: create_key(store.database, scope, scope) for scope in Scope}
    callers.refresh(store.database)
    found = {scope: callers.find(key) for scope, key in keys.items()}
    assert [caller and caller.owner is None for caller in found.values()] == [True, False, True]
    assert [caller and caller.is_admin for caller in found.values()] == [False, False, True]
