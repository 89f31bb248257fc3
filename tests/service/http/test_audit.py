"""Every change is a line of JSON with who made it; nothing else is, and no secrets."""

import json
import logging
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.accounts.audit import Change, auditing, record
from service.accounts.keys import Scope, create_key
from service.logs import JsonLines
from service.preflight import StartError, require_startable
from service.settings import Settings
from tests.command import Run
from tests.server import Server, serving
from tests.service.http.asked import FLIP, submitted
from tests.service.pictures import DISC, URL

ADMIN = "the-admin-key"
CHANGE = Change("laptop", "submit", "::1", "PUT", "/v1/x/{name}", "/v1/x/a\nb", 200)


@pytest.fixture(scope="module")
def own(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("audit")
    changed = {"admin_keys": frozenset({ADMIN}), "data_dir": folder, "audit_log": folder / "audit.jsonl"}
    with serving(settings.model_copy(update=changed)) as running:
        running.app.state.laptop = create_key(running.service.store.database, "laptop", Scope.SUBMIT)
        running.service.callers.refresh(running.service.store.database)
        yield running


@pytest.fixture
def log(own: Server) -> Path:
    """The file, emptied."""
    path = own.service.settings.audit_log
    assert path is not None
    path.write_text("")
    return path


@pytest.fixture
def laptop(own: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=own.url, headers={"X-API-Key": own.app.state.laptop}) as client:
        yield client


@pytest.fixture
def admin(own: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=own.url, headers={"X-API-Key": ADMIN}) as client:
        yield client


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def recorded(path: Path) -> list[tuple[object, ...]]:
    return [(each["key"], each["method"], each["route"], each["target"], each["status"]) for each in lines(path)]


def test_each_change_is_told_with_who_made_it(laptop: httpx.Client, admin: httpx.Client, log: Path) -> None:
    mine = submitted(laptop, models=["tiny"], conditions=[FLIP])["id"]
    here, route = f"/v1/evaluations/{mine}", "/v1/evaluations/{evaluation_id}"
    laptop.put(f"{here}/label", json={"name": "a secret name"})
    laptop.delete(here)
    laptop.post("/v1/queue/pause")
    admin.post("/v1/models/tiny/unload", params={"version": "1"})
    admin.delete(here, params={"results": "true"})
    root = lines(log)[-1]["key"]
    assert recorded(log) == [
        ("laptop", "POST", "/v1/evaluations", here, 202),
        ("laptop", "PUT", f"{route}/label", f"{here}/label", 200),
        ("laptop", "DELETE", route, here, 200),
        ("laptop", "POST", "/v1/queue/pause", "/v1/queue/pause", 403),
        (root, "POST", "/v1/models/{name}/unload", "/v1/models/tiny/unload", 200),
        (root, "DELETE", route, f"{here}?results=true", 200),
    ]
    assert len(root) == 16, "keys of the settings have no name"
    first = lines(log)[0]
    assert [*first] == ["time", "key", "scope", "address", "method", "route", "target", "status"]
    assert (first["scope"], first["address"], first["time"][-6:]) == ("submit", "127.0.0.1", "+00:00")


def test_nothing_is_recorded_of_what_changes_nothing_or_comes_from_strangers(
    own: Server, laptop: httpx.Client, log: Path
) -> None:
    assert laptop.post(URL, content=DISC).status_code == 200
    assert laptop.post("/v1/evaluations/dry-run", json={"models": ["tiny"], "dataset": "shapes"}).status_code == 200
    assert laptop.post("/changes", json=[]).status_code == 200
    assert laptop.get("/v1/models").status_code == 200
    assert own.http.post("/v1/models/tiny/unload").status_code == 401
    assert own.http.delete("/v1/models/tiny", headers={"X-API-Key": "guess"}).status_code == 401
    assert recorded(log) == []


def test_sign_ins_are_told_right_or_wrong_and_changes_with_their_cookies(own: Server, log: Path) -> None:
    with httpx.Client(base_url=own.url) as browser:
        browser.post("/sign-in", data={"key": "wrong"})
        browser.post("/sign-in", data={"key": own.app.state.laptop, "next": "/queue"})
        browser.delete("/v1/models/tiny")
    assert recorded(log) == [
        ("", "POST", "/sign-in", "/sign-in", 401),
        ("laptop", "POST", "/sign-in", "/sign-in", 303),
        ("laptop", "DELETE", "/v1/models/{name}", "/v1/models/tiny", 403),
    ]


def test_no_line_has_a_key_or_what_a_body_says(
    own: Server, laptop: httpx.Client, admin: httpx.Client, log: Path
) -> None:
    admin.put("/v1/models/tiny/serving?webhook=https://a/secret-token", json={"top_k": 2, "secret": "in the body"})
    laptop.post("/v1/evaluations/pgd", json={"models": ["secret"]})
    text = log.read_text()
    assert text.count("\n") == 2
    assert not [word for word in (ADMIN, own.app.state.laptop, "secret", "body") if word in text]


def test_a_change_that_fails_is_told(own: Server, laptop: httpx.Client, log: Path) -> None:
    def fail() -> None:
        raise RuntimeError("a secret")

    own.app.add_api_route("/broken", fail, methods=["POST"])
    assert laptop.post("/broken").status_code == 500
    assert recorded(log) == [("laptop", "POST", "/broken", "/broken", 500)]


def test_the_file_is_private_and_made_anew_once_it_is_moved(laptop: httpx.Client, log: Path) -> None:
    laptop.post("/v1/queue/pause")
    moved = log.rename(log.with_suffix(".1"))
    laptop.post("/v1/queue/resume")
    assert [each["route"] for each in lines(moved)] == ["/v1/queue/pause"]
    assert [each["route"] for each in lines(log)] == ["/v1/queue/resume"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in (moved, log)] == [0o600, 0o600]


def test_without_a_file_the_lines_are_in_the_log(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="uvicorn.error")
    with auditing(None, "text"):
        record(CHANGE)
    (written,) = capsys.readouterr().err.splitlines()
    assert json.loads(written).items() >= CHANGE._asdict().items()
    with auditing(None, "json"):
        record(CHANGE)
    line = json.loads(JsonLines().format(caplog.records[-1]))
    assert line.items() >= CHANGE._asdict().items()
    assert line["logger"] == "withstand.audit"


def test_a_file_that_cannot_be_written_is_said_before_the_service_starts(settings: Settings, tmp_path: Path) -> None:
    changed = {"data_dir": tmp_path, "port": 0, "audit_log": tmp_path / "missing" / "audit.jsonl"}
    with pytest.raises(StartError, match=r"No such file or directory: .*audit.jsonl \(WITHSTAND_AUDIT_LOG\)"):
        require_startable(settings.model_copy(update=changed))


def test_keys_that_are_made_and_revoked_by_command_are_recorded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "audit.jsonl"
    monkeypatch.setenv("WITHSTAND_AUDIT_LOG", str(log))
    key = run("keys", "create", "board", "--scope", "read", "--data-dir", tmp_path).out.strip()
    run("keys", "create", "board", "--scope", "read", "--data-dir", tmp_path)
    run("keys", "revoke", "board", "--data-dir", tmp_path)
    assert [(each["route"], each["target"]) for each in lines(log)] == [
        ("keys create", "board (read)"),
        ("keys revoke", "board"),
    ]
    assert lines(log)[0]["key"].startswith("user ")
    assert key not in log.read_text()
