"""Who may ask: pages of this service and clients that are no browsers, under a name that is this service's."""

from collections.abc import Iterator

import httpx
import pytest

from service.http.access.scopes import READING
from service.settings import Settings
from tests.server import Server, serving
from tests.service.pictures import DISC, URL

KEY = "a-key"
FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


def changing(server: Server) -> list[tuple[str, str]]:
    """Every route that may change something."""
    return [
        (method.upper(), path.format(name="tiny", version="1", evaluation_id="0" * 16))
        for path, methods in server.app.openapi()["paths"].items()
        for method in methods
        if method.upper() not in READING
    ] + [("POST", "/changes")]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_page_of_another_site_changes_nothing(server: Server, headers: dict[str, str]) -> None:
    routes = changing(server)
    assert len(routes) > 20
    for method, path in routes:
        answer = server.http.request(method, path, headers=headers)
        assert answer.status_code == 403, path
        assert answer.headers["content-type"] == "application/problem+json"
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_page_of_another_site_may_link_here(server: Server, headers: dict[str, str]) -> None:
    answer = server.http.get("/", headers=headers)
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


def test_own_pages_and_other_clients_may(server: Server) -> None:
    own = server.url
    for headers in (
        {},
        {"Origin": own},
        {"Origin": own, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://public.example", "Sec-Fetch-Site": "same-origin"},  # a proxy changed the host
        {"Origin": "https://evil.example", "X-API-Key": "k"},
        {"Origin": "https://evil.example", "Authorization": "Bearer k"},
    ):
        assert server.http.post(URL, content=DISC, headers=headers).status_code == 200, headers


def test_a_page_cannot_ask_for_permission(server: Server) -> None:
    asks = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key",
    }
    answer = server.http.options("/v1/models", headers=asks)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.fixture(scope="module")
def guarded(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    changed = {
        "api_keys": frozenset({KEY}),
        "allowed_hosts": ("robust.example",),
        "data_dir": tmp_path_factory.mktemp("guarded"),
    }
    with serving(settings.model_copy(update=changed)) as running:
        yield running


def test_a_stored_password_does_not_help_another_site(guarded: Server) -> None:
    path = "/v1/models/tiny/unload"
    assert guarded.http.post(path, auth=("x", KEY)).status_code == 200
    assert guarded.http.post(path, auth=("x", KEY), headers={"Origin": "https://evil.example"}).status_code == 403


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:80", "[::1]:8000", "192.168.1.7:8000"]
)
def test_addresses_and_names_of_this_machine_pass(server: Server, host: str) -> None:
    assert server.http.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1", "::1@evil"],
)
def test_other_names_are_refused(server: Server, host: str) -> None:
    for path in ("/", "/v1/models", "/docs", "/healthz", "/nothing", "/v1/models/"):
        answer = server.http.get(path, headers={"Host": host})
        assert answer.status_code == 421
        assert answer.headers["content-type"] == "application/problem+json"
        assert "location" not in answer.headers


def test_a_name_can_be_allowed(guarded: Server) -> None:
    for host, status in (("robust.example", 200), ("Robust.Example:443", 200), ("evil.example", 421)):
        assert guarded.http.get("/v1/models", headers={"Host": host, "X-API-Key": KEY}).status_code == status


def test_every_name_can_be_allowed(settings: Settings, tmp_path: object) -> None:
    with serving(settings.model_copy(update={"allowed_hosts": ("*",), "data_dir": tmp_path})) as any_host:
        assert any_host.http.get("/healthz", headers={"Host": "evil.example"}).status_code == 200
        assert any_host.http.get("/v1/models/", headers={"Host": "evil.example"}).status_code == 404


@pytest.mark.parametrize("path", ["/", "/docs", "/healthz", "/v1/models", "/static/live.js", "/nothing"])
def test_answers_are_taken_for_what_they_say(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.headers["x-content-type-options"] == "nosniff"
    if answer.headers["content-type"].startswith("text/html"):
        policy = dict(each.partition(" ")[::2] for each in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert "unsafe" not in policy["script-src"]
        assert answer.headers["referrer-policy"] == "same-origin"
    else:
        assert path not in {"/", "/docs"}
