"""Pages of allowed origins may ask, with a key in a header; of no other, and never with a cookie."""

from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from service.http.access.sessions import COOKIE, issue
from service.settings import Settings
from tests.server import Server, serving
from tests.service.http.test_origins import FOREIGN
from tests.service.pictures import DISC, URL

KEY, ORIGIN = "a-key", "https://lab.example.org"
FROM = {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key,content-type"}


@pytest.fixture(scope="module")
def own(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    changed = {
        "api_keys": frozenset({KEY}),
        "cors_origins": (ORIGIN, "http://localhost:3000"),
        "data_dir": tmp_path_factory.mktemp("cors"),
    }
    with serving(settings.model_copy(update=changed)) as running:
        yield running


def test_a_page_of_an_allowed_origin_gets_permission_and_an_answer_that_it_can_read(own: Server) -> None:
    permission = own.http.options(URL, headers=FROM | ASKS)
    assert (permission.status_code, permission.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert permission.headers["access-control-allow-headers"] == "x-api-key,content-type"
    answer = own.http.post(URL, content=DISC, headers=FROM | {"X-API-Key": KEY})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert "Origin" in answer.headers["vary"]
    assert "Server-Timing" in answer.headers["access-control-expose-headers"]
    refused = own.http.post(URL, content=DISC, headers=FROM)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN), "it can read why"


@pytest.mark.parametrize(
    "origin",
    [
        *(each["Origin"] for each in FOREIGN if "Origin" in each),
        f"{ORIGIN}.evil.example",
        f"{ORIGIN}:8443",
        ORIGIN.replace("https", "http"),
        ORIGIN.upper(),
        "https://evil-lab.example.org",
        "http://localhost:3001",
    ],
)
def test_a_page_of_any_other_origin_gets_neither(own: Server, origin: str) -> None:
    permission = own.http.options(URL, headers=ASKS | {"Origin": origin})
    assert permission.status_code == 400
    assert "access-control-allow-origin" not in permission.headers
    for method, path in (("POST", URL), ("DELETE", "/v1/models/tiny"), ("POST", "/sign-in")):
        refused = own.http.request(method, path, headers={"Origin": origin})
        assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (403, False), path
    readable = own.http.get("/v1/models", headers={"Origin": origin, "X-API-Key": KEY})
    assert "access-control-allow-origin" not in readable.headers


@pytest.mark.parametrize("origin", [ORIGIN, "https://evil.example"])
def test_a_cookie_counts_on_pages_of_this_service_alone(own: Server, origin: str) -> None:
    cookie = {"Cookie": f"{COOKIE}={issue(KEY)}"}
    assert own.http.get("/v1/models", headers=cookie).status_code == 200
    assert own.http.get("/v1/models", headers=cookie | {"Origin": own.url}).status_code == 200
    for site in ("cross-site", "same-site"):
        read = own.http.get("/v1/models", headers=cookie | {"Origin": origin, "Sec-Fetch-Site": site})
        assert read.status_code == 401
        assert "access-control-allow-credentials" not in read.headers
        changed = own.http.post("/v1/models/tiny/unload", headers=cookie | {"Origin": origin, "Sec-Fetch-Site": site})
        assert changed.status_code == (401 if origin == ORIGIN else 403)


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "lab.example.org",
        "https://lab.example.org/",
        "https://Lab.example.org",
        "https://lab.example.org:443",
        "https://*.example.org",
        "http://lab.example.org",
        "https://user@lab.example.org",
        "http://localhost.evil.example",
    ],
)
def test_what_is_no_exact_origin_is_refused(origin: str) -> None:
    reason = "would let the pages of every site ask" if origin == "*" else "is no origin as browsers send it"
    with pytest.raises(ValidationError, match=reason):
        Settings(cors_origins=(origin,))


def test_exact_origins_are_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WITHSTAND_CORS_ORIGINS", '["https://a.example:8443", "http://127.0.0.1:3000", "https://lab"]')
    assert Settings().cors_origins == ("https://a.example:8443", "http://127.0.0.1:3000", "https://lab")
