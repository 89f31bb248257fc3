"""What each scope may do, on every route; keys that are made and revoked while a server runs."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import select

from service.accounts.keys import Scope, create_key, revoke_key
from service.http.access.scopes import READING
from service.http.access.sessions import COOKIE, issue
from service.http.middleware import api_keys
from service.http.middleware.api_keys import OPEN
from service.settings import Settings
from service.sql.tables import API_KEYS
from tests.server import Server, serving, until
from tests.service.http.asked import FLIP, submitted
from tests.service.pictures import DISC, URL, refusal

LOOKED_AT = {
    "/changes",
    "/datasets/changes",
    "/evaluations/{evaluation_id}/{tab}/changes",
    "/models/changes",
    "/models/{name}/changes",
    "/queue/changes",
    "/v2/repository/index",
}
"""By POST, though nothing changes."""

OF_ADMINS = {
    ("POST", "/v1/models"),
    ("DELETE", "/v1/models/{name}"),
    ("PUT", "/v1/models/{name}/serving"),
    ("POST", "/v1/models/{name}/load"),
    ("POST", "/v1/models/{name}/unload"),
    ("POST", "/v2/repository/models/{name}/load"),
    ("POST", "/v2/repository/models/{name}/unload"),
    ("POST", "/v1/datasets"),
    ("POST", "/v1/queue/pause"),
    ("POST", "/v1/queue/resume"),
}

HONOURED_S = 2.0
"""How long a running server may take to honour a key that is new, or revoked, seconds."""


class Guarded(NamedTuple):
    """A server with a key of each scope in its database."""

    server: Server
    keys: dict[Scope, str]

    def ask(self, scope: Scope, method: str, path: str, **more: Any) -> httpx.Response:
        return self.server.http.request(method, path, headers={"X-API-Key": self.keys[scope]}, **more)


@pytest.fixture(scope="module")
def guarded(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    changed = settings.model_copy(update={"data_dir": tmp_path_factory.mktemp("scopes")})
    with pytest.MonkeyPatch.context() as patch, serving(changed) as server:
        patch.setattr(api_keys, "ALLOWED_FAILURES", 10**6)
        keys = {scope: create_key(server.service.store.database, scope, scope) for scope in Scope}
        server.service.callers.refresh(server.service.store.database)
        yield Guarded(server, keys)


def changing(server: Server) -> set[tuple[str, str]]:
    """Every route whose method may change something, of pages too."""
    return {
        (method, str(context.path))
        for context in iter_route_contexts(server.app.routes)
        for method in context.methods or ()
        if method not in READING and context.path not in OPEN
    }


def filled(path: str) -> str:
    return path.format(name="tiny", version="1", evaluation_id="0" * 16, tab="report")


def test_a_key_that_only_reads_changes_nothing(guarded: Guarded) -> None:
    routes = changing(guarded.server)
    assert len(routes) > 40
    answers = {(method, path): guarded.ask(Scope.READ, method, filled(path)) for method, path in routes}
    refused = {route for route, answer in answers.items() if answer.status_code == 403}
    assert {path for _, path in routes - refused} == LOOKED_AT
    for route in refused:
        assert "this needs the scope submit; the API key 'read' has the scope read" in answers[route].json()["detail"]


def test_what_is_served_is_changed_by_admin_keys_alone(guarded: Guarded) -> None:
    answers = {
        (method, path): guarded.ask(Scope.SUBMIT, method, filled(path)) for method, path in changing(guarded.server)
    }
    refused = {route for route, answer in answers.items() if answer.status_code == 403}
    assert refused == OF_ADMINS
    for route in refused:
        assert (
            "this needs the scope admin; the API key 'submit' has the scope submit" in answers[route].json()["detail"]
        )


def test_each_scope_may_do_what_it_says(guarded: Guarded) -> None:
    assert guarded.server.http.get("/v1/models").status_code == 401
    for scope in Scope:
        for path in ("/", "/v1/models", "/v1/queue", "/new", "/metrics"):
            assert guarded.ask(scope, "GET", path).status_code == 200
        page = guarded.ask(scope, "GET", "/new").text
        assert ('<form id="new"' in page) == (scope is not Scope.READ)
        assert ("this needs the scope submit; the API key" in page) == (scope is Scope.READ)
        predicted = guarded.ask(scope, "POST", URL, content=DISC).status_code
        assert predicted == (403 if scope is Scope.READ else 200)
    assert guarded.ask(Scope.ADMIN, "POST", "/v1/queue/pause").status_code == 200
    assert guarded.ask(Scope.ADMIN, "POST", "/v1/queue/resume").status_code == 200


def test_a_key_that_reads_sees_what_others_asked_for_and_another_key_does_not(guarded: Guarded) -> None:
    with httpx.Client(base_url=guarded.server.url, headers={"X-API-Key": guarded.keys[Scope.SUBMIT]}) as own:
        mine = submitted(own, models=["tiny"], conditions=[FLIP])["id"]
    other = create_key(guarded.server.service.store.database, "other", Scope.SUBMIT)
    guarded.server.service.callers.refresh(guarded.server.service.store.database)
    here = f"/v1/evaluations/{mine}"
    assert [guarded.ask(scope, "GET", here).status_code for scope in Scope] == [200, 200, 200]
    refusal(guarded.server.http.get(here, headers={"X-API-Key": other}), 404)
    refusal(guarded.ask(Scope.READ, "DELETE", here), 403)
    removal = guarded.ask(Scope.SUBMIT, "DELETE", here, params={"results": True})
    assert "needs the scope admin" in refusal(removal, 403)["detail"]
    refusal(guarded.ask(Scope.READ, "PUT", f"{here}/label", json={"name": "x"}), 403)
    assert guarded.ask(Scope.SUBMIT, "PUT", f"{here}/label", json={"name": "x"}).status_code == 200


def test_a_page_offers_a_key_that_reads_no_changes(guarded: Guarded) -> None:
    for scope in Scope:
        page = guarded.ask(scope, "GET", "/queue")
        assert ("/v1/queue/pause" in page.text) == (scope is Scope.ADMIN)


def test_a_running_server_honours_new_and_revoked_keys_and_their_cookies(guarded: Guarded) -> None:
    server, database = guarded.server, guarded.server.service.store.database
    key = create_key(database, "late", Scope.READ)
    ways = ({"X-API-Key": key}, {"Cookie": f"{COOKIE}={issue(key)}"})

    def are(status: int) -> bool:
        return all(server.http.get("/v1/queue", headers=way).status_code == status for way in ways)

    until(lambda: are(200), HONOURED_S)
    revoke_key(database, "late")
    until(lambda: are(401), HONOURED_S)


def test_a_cookie_ends_with_its_key(guarded: Guarded) -> None:
    database = guarded.server.service.store.database
    key = create_key(database, "short", Scope.READ, expires_at=time.time() + 1.5)
    guarded.server.service.callers.refresh(database)
    cookie = {"Cookie": f"{COOKIE}={issue(key)}"}
    assert guarded.server.http.get("/v1/queue", headers=cookie).status_code == 200
    until(lambda: guarded.server.http.get("/v1/queue", headers=cookie).status_code == 401, 3.0)


def test_what_the_database_holds_makes_no_cookie(guarded: Guarded) -> None:
    with guarded.server.service.store.database.reading() as db:
        rows = db.execute(select(API_KEYS.c.sha256, API_KEYS.c.session_sha256)).all()
    right = issue(guarded.keys[Scope.ADMIN])
    expires, secret, signature = right.split(".")
    stored = [text for row in rows for text in row]
    longer = f"{int(expires) + 1}.{secret}.{signature}"
    forged = [longer, *(f"{expires}.{text}.{signature}" for text in stored), *(issue(text) for text in stored)]
    for value, status in ((right, 200), *((each, 401) for each in forged)):
        answer = guarded.server.http.get("/v1/queue", headers={"Cookie": f"{COOKIE}={value}"})
        assert answer.status_code == status, value


def test_the_api_says_that_a_key_is_needed(guarded: Guarded) -> None:
    assert "securitySchemes" in guarded.server.http.get("/openapi.json").json()["components"]
