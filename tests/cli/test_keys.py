"""Keys by command: printed once, listed, revoked."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.preflight import require_startable
from service.settings import Settings
from tests.command import Run


@pytest.fixture
def where(tmp_path: Path) -> list[str]:
    return ["--data-dir", str(tmp_path / "data")]


def test_a_key_is_printed_once_listed_and_revoked(run: Run, where: list[str]) -> None:
    created = run("keys", "create", "laptop", "--scope", "submit", *where)
    assert (created.status, created.out.startswith("wst_"), created.out.count("\n")) == (0, True, 1)
    other = json.loads(run("keys", "create", "board", "--scope", "read", "--expires", 30, "--json", *where).out)
    assert (other["name"], other["scope"], other["key"][:4]) == ("board", "read", "wst_")
    listed = run("keys", "list", *where)
    assert [line.split()[:2] for line in listed.out.splitlines() if "UTC" in line] == [
        ["board", "read"],
        ["laptop", "submit"],
    ]
    assert "wst_" not in listed.out
    assert run("keys", "revoke", "laptop", *where).out == "revoked laptop\n"
    board, laptop = json.loads(run("keys", "list", "--json", *where).out)
    ends = datetime.fromisoformat(board["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29.9) < ends < timedelta(days=30)
    assert (board["revoked_at"], laptop["revoked_at"] is None) == (None, False)
    assert [*board] == ["name", "scope", "created_at", "expires_at", "revoked_at"]


def test_what_is_wrong_ends_with_2(run: Run, where: list[str]) -> None:
    assert "no service has stored anything" in run("keys", "list", *where).err
    run("keys", "create", "laptop", "--scope", "submit", *where)
    for arguments, expected in (
        (["create", "laptop", "--scope", "read"], "there is a key 'laptop' already"),
        (["create", "two words", "--scope", "read"], "a key's name has 1 to 64"),
        (["create", "other", "--scope", "root"], "'root' is not one of"),
        (["create", "other", "--scope", "read", "--expires", "0"], "greater than or equal to 1"),
        (["revoke", "laptob"], "unknown key 'laptob'. Did you mean 'laptop'?"),
    ):
        ended = run("keys", *arguments, *where)
        assert (ended.status, ended.out) == (2, "")
        assert expected in ended.err


def test_a_server_may_listen_beyond_this_machine_once_there_is_a_key(run: Run, where: list[str]) -> None:
    settings = Settings(host="0.0.0.0", port=0, data_dir=Path(where[1]))
    with pytest.raises(
        ValueError, match=r"listening on 0\.0\.0\.0 needs API keys: make one with `withstand keys create"
    ):
        require_startable(settings)
    run("keys", "create", "laptop", "--scope", "admin", *where)
    require_startable(settings)
