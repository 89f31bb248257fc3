"""Keys in the database: made, listed, revoked; no trace of what could be used."""

import re
import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select

from common import UnknownNameError, text_sha256
from service.accounts.keys import Scope, create_key, list_keys, revoke_key, session_secret
from service.jobs.store import Store
from service.sql.tables import API_KEYS
from tests.service.jobs.stores import on_sqlite


def test_a_key_is_random_and_only_hashes_of_it_are_stored(store: Store) -> None:
    keys = [create_key(store.database, name, Scope.READ) for name in ("one", "two")]
    assert keys[0] != keys[1]
    assert all(re.fullmatch(r"wst_[A-Za-z0-9_-]{43}", key) for key in keys), "256 bits in base64"
    with store.database.reading() as db:
        rows = db.execute(select(API_KEYS)).all()
    stored = " ".join(str(value) for row in rows for value in row)
    assert {row.sha256 for row in rows} == {text_sha256(key) for key in keys}
    for key in keys:
        assert key not in stored
        assert session_secret(key) not in stored, "with it a cookie could be made"


def test_keys_are_listed_and_revoked(store: Store) -> None:
    before, ends = time.time(), time.time() + 60
    create_key(store.database, "laptop", Scope.SUBMIT)
    create_key(store.database, "dashboard", Scope.READ, expires_at=ends)
    newest, oldest = list_keys(store.database)
    assert (newest.name, newest.scope, oldest.name, oldest.scope) == ("dashboard", "read", "laptop", "submit")
    assert before <= oldest.created_at.timestamp() <= time.time()
    assert (oldest.expires_at, oldest.revoked_at) == (None, None)
    assert newest.expires_at is not None
    assert newest.expires_at.timestamp() == pytest.approx(ends, abs=1e-3)
    assert revoke_key(store.database, "laptop").revoked_at is not None
    assert [each.revoked_at is None for each in list_keys(store.database)] == [True, False]
    with pytest.raises(UnknownNameError, match=r"unknown key 'laptop'.* Known: dashboard"):
        revoke_key(store.database, "laptop")


def test_a_name_is_taken_until_its_key_is_revoked(store: Store) -> None:
    first = create_key(store.database, "laptop", Scope.SUBMIT)
    with pytest.raises(ValueError, match="there is a key 'laptop' already; revoke it, or choose another name"):
        create_key(store.database, "laptop", Scope.READ)
    revoke_key(store.database, "laptop")
    assert create_key(store.database, "laptop", Scope.READ) != first
    assert [(each.scope, each.revoked_at is None) for each in list_keys(store.database)] == [
        ("read", True),
        ("submit", False),
    ]


@on_sqlite
@pytest.mark.parametrize("name", ["", "-x", "two words", "é", "x" * 65, "a/b", "x\n"])
def test_a_name_that_is_none_is_refused(database: Path, name: str) -> None:
    with closing(Store.at(database)) as store, pytest.raises(ValueError, match="a key's name has 1 to 64 letters"):
        create_key(store.database, name, Scope.READ)


def test_each_scope_covers_those_before_it() -> None:
    covered = [[each.covers(needed) for needed in Scope] for each in Scope]
    assert covered == [[True, False, False], [True, True, False], [True, True, True]]
