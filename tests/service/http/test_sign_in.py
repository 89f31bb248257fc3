"""Browsers sign in with an API key: a signed cookie stands for it afterwards."""

from collections.abc import Iterator

import httpx
import pytest

from service.http.access.sessions import COOKIE, SESSION_S, issue
from service.http.middleware.api_keys import ALLOWED_FAILURES
from service.settings import Settings
from tests.server import Server, serving
from tests.service.http.page import Page
from tests.service.http.test_error_pages import BROWSER

KEY, ADMIN = "the-first-key", "the-admin-key"


@pytest.fixture
def own(settings: Settings) -> Iterator[Server]:
    keys = {"api_keys": frozenset({KEY}), "admin_keys": frozenset({ADMIN})}
    with serving(settings.model_copy(update=keys)) as running:
        yield running


@pytest.fixture
def browser(own: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=own.url, headers=BROWSER, follow_redirects=True) as opened:
        yield opened


def signed_in(browser: httpx.Client, key: str = KEY, **fields: str) -> httpx.Response:
    return browser.post("/sign-in", data={"key": key, **fields})


def test_a_browser_is_sent_to_sign_in_and_back_to_the_page_that_it_wanted(browser: httpx.Client) -> None:
    asked = browser.get("/evaluations?search=a+b")
    assert (asked.status_code, asked.url.path) == (200, "/sign-in")
    wanted = next(found["value"] for _, found in Page(asked.text).tags if found.get("name") == "next")
    assert wanted == "/evaluations?search=a+b"
    shown = signed_in(browser, next=wanted)
    assert (shown.status_code, str(shown.url.raw_path, "ascii")) == (200, "/evaluations?search=a+b")
    assert browser.get("/v1/queue").status_code == 200
    assert browser.post("/v1/queue/pause").status_code == 403, "that needs an admin key"
    assert KEY not in browser.cookies[COOKIE]
    assert browser.post("/sign-out").url.path == "/sign-in"
    assert browser.get("/").url.path == "/sign-in"


def test_the_cookie_has_the_rights_of_its_key(browser: httpx.Client) -> None:
    signed_in(browser, ADMIN)
    assert browser.post("/v1/queue/pause").status_code == 200
    assert browser.post("/v1/queue/resume").status_code == 200


def test_the_cookie_is_kept_from_scripts_and_other_sites(own: Server, browser: httpx.Client) -> None:
    answer = browser.post("/sign-in", data={"key": KEY}, follow_redirects=False)
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=lax", f"Max-Age={SESSION_S}", "Path=/"} <= set(cookie.split("; "))
    signed_in(browser)
    forged = browser.post("/v1/evaluations", json={}, headers={"Origin": "https://evil.example"})
    assert forged.status_code == 403


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1.2",
        issue("another-key"),
        issue(KEY).replace(".", "0."),
        "9" * 5000 + ".x",
        "1" + issue(KEY)[10:],
        "²." + "0" * 64,
    ],
    ids=range(7),
)
def test_a_forged_cookie_is_none(own: Server, value: str) -> None:
    answer = own.http.get("/v1/queue", headers={"Cookie": f"{COOKIE}={value}".encode()})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "wanted", ["https://evil.example/", "//evil.example", "/\\evil.example", "evil", "/a\nb: c", ""]
)
def test_nobody_is_sent_elsewhere(own: Server, wanted: str) -> None:
    answer = own.http.post("/sign-in", data={"key": KEY, "next": wanted})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_wrong_keys_are_counted(own: Server) -> None:
    for _ in range(ALLOWED_FAILURES):
        answer = own.http.post("/sign-in", data={"key": "wrong"})
        assert answer.status_code == 401
        assert "There is no such API key." in Page(answer.text).text
    assert own.http.post("/sign-in", data={"key": KEY}).status_code == 429
    assert own.http.get("/v1/queue", headers={"X-API-Key": KEY}).status_code == 429


def test_a_form_that_is_too_large_is_refused(own: Server) -> None:
    assert own.http.post("/sign-in", data={"key": "a" * 20_000}).status_code == 413
    assert own.http.post("/sign-in", content=b"\xff=\xff&&;=").status_code == 401


def test_a_service_without_keys_says_so(server: Server) -> None:
    assert "asks for no API key" in server.http.get("/sign-in").text
