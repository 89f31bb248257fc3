"""Keys are asked for before anything is read, and cannot be guessed."""

from collections.abc import Iterator

import httpx
import pytest

from service.http.middleware import api_keys
from service.http.middleware.api_keys import ALLOWED_FAILURES, Failures
from service.settings import Settings
from tests.server import Server, serving
from tests.service.http.raw import connect, head

KEY = "a-key"
RIGHT = {"X-API-Key": KEY}


@pytest.fixture
def guarded(settings: Settings, tmp_path: object) -> Iterator[Server]:
    with serving(settings.model_copy(update={"api_keys": frozenset({KEY}), "data_dir": tmp_path})) as running:
        yield running


def from_address(server: Server, address: str) -> httpx.Client:
    return httpx.Client(base_url=server.url, transport=httpx.HTTPTransport(local_address=address))


def test_guesses_from_an_address_are_refused_after_ten(guarded: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with from_address(guarded, "127.0.0.9") as guesser, from_address(guarded, "127.0.0.10") as other:
        statuses = [guesser.get("/v1/models", headers={"X-API-Key": f"guess{n}"}).status_code for n in range(50)]
        assert statuses == [401] * ALLOWED_FAILURES + [429] * (50 - ALLOWED_FAILURES)
        refused = guesser.get("/v1/models", headers=RIGHT)
        assert refused.status_code == 429, "or guessing would go on"
        assert 1 <= int(refused.headers["retry-after"]) <= 61
        assert "127.0.0.9 sent 10 wrong API keys" in refused.json()["detail"]
        assert other.get("/v1/models", headers=RIGHT).status_code == 200
        assert guesser.get("/healthz").status_code == 200
        assert guesser.get("/v1/models").status_code == 401
        monkeypatch.setattr(api_keys, "WINDOW_S", 0.0)
        assert guesser.get("/v1/models", headers=RIGHT).status_code == 200


def test_every_way_of_guessing_counts(guarded: Server) -> None:
    ways = ({"X-API-Key": "x"}, {"Authorization": "Bearer x"}, {"Authorization": "Basic eDp4"})
    with from_address(guarded, "127.0.0.11") as guesser:
        statuses = [guesser.get("/v1/models", headers=ways[n % 3]).status_code for n in range(ALLOWED_FAILURES + 1)]
    assert statuses == [401] * ALLOWED_FAILURES + [429]


def test_asking_without_a_key_and_right_keys_are_no_guesses(guarded: Server) -> None:
    for _ in range(ALLOWED_FAILURES + 5):
        assert guarded.http.get("/v1/models").status_code == 401
        assert guarded.http.get("/v1/models", headers=RIGHT).status_code == 200


def test_guesses_of_an_admin_key_are_counted_where_others_need_none(settings: Settings, tmp_path: object) -> None:
    changed = {"admin_keys": frozenset({"admin"}), "data_dir": tmp_path}
    with serving(settings.model_copy(update=changed)) as server:
        unload = "/v1/models/tiny/unload"
        statuses = [
            server.http.post(unload, headers={"X-API-Key": f"{n}"}).status_code for n in range(ALLOWED_FAILURES + 1)
        ]
        assert statuses == [403] * ALLOWED_FAILURES + [429]
        assert server.http.get("/v1/models").status_code == 200


def test_failures_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "MOST_ADDRESSES", 5)
    failures = Failures()
    for number in range(100):
        failures.add(str(number))
    for _ in range(ALLOWED_FAILURES):
        failures.add("99")
    assert len(failures._counts) == 5
    assert failures.wait_s("99") > 0
    assert failures.wait_s("98") == 0


@pytest.mark.parametrize(
    "path", ["/v1/evaluations", "/v1/models", "/v1/models/tiny/predict", "/v1/datasets", "/changes", "/nothing"]
)
def test_a_key_is_asked_for_before_a_body_is_read(guarded: Server, path: str) -> None:
    with connect(guarded) as connection:
        connection.sendall(head(f"POST {path}", "Content-Type: application/json", "Content-Length: 1000"))
        assert connection.recv(2**16).startswith(b"HTTP/1.1 401 ")


def test_each_scheme_has_a_header_of_its_own(guarded: Server) -> None:
    answer = guarded.http.get("/")
    assert answer.headers.get_list("www-authenticate") == ["Bearer", 'Basic realm="withstand"']


def test_the_api_describes_how_keys_are_sent(guarded: Server, http: httpx.Client) -> None:
    api = guarded.http.get("/openapi.json").json()
    assert set(api["components"]["securitySchemes"]) == {"HTTPBearer", "APIKeyHeader"}
    either = [{"HTTPBearer": []}, {"APIKeyHeader": []}]
    for path, methods in api["paths"].items():
        is_open = path in api_keys.OPEN
        assert all(route.get("security") == (None if is_open else either) for route in methods.values()), path
    assert "securitySchemes" not in http.get("/openapi.json").json()["components"]
