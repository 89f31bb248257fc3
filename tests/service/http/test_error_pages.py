"""Errors in a browser: a page with the same status, headers and words as the JSON that programs get."""

import pytest

from tests.server import Server
from tests.service.http.page import Page

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.parametrize(
    "path",
    [
        "/evaluations/0123456789abcdef",
        "/evaluations/short",
        "/nothing/<script>alert(1)</script>",
        "/models/absent",
        "/v1/models/absent",
        "/compare?side=x",
    ],
)
def test_a_browser_gets_a_page_that_says_the_same(server: Server, path: str) -> None:
    asked = server.http.get(path)
    shown = server.http.get(path, headers=BROWSER)
    assert asked.headers["content-type"] == "application/problem+json"
    assert (shown.status_code, shown.headers["content-type"]) == (asked.status_code, "text/html; charset=utf-8")
    page = Page(shown.text)
    assert asked.json()["detail"] in page.text
    assert "script" not in [tag for tag, _ in page.tags]
    assert "default-src 'none'" in shown.headers["content-security-policy"]
    assert "Accept" in shown.headers["vary"]


def test_what_is_no_error_stays_as_it_is(server: Server) -> None:
    for path in ("/", "/v1/models", "/healthz"):
        assert server.http.get(path, headers=BROWSER).status_code == 200
    assert server.http.get("/v1/models", headers=BROWSER).headers["content-type"] == "application/json"


def test_a_head_request_gets_the_headers_alone(server: Server) -> None:
    answer = server.http.head("/evaluations/0123456789abcdef", headers=BROWSER)
    assert (answer.status_code, answer.content) == (404, b"")
