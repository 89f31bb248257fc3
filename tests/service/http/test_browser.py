"""The script of pages, in a real browser, where playwright and chromium are installed."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.server import Server
from tests.service.http.asked import SPEC

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: uv pip install playwright")
CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture
def page() -> Iterator[Any]:
    """A page whose script's errors fail the test."""
    errors: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        opened = browser.new_page(viewport={"width": 600, "height": 500})
        opened.on("pageerror", lambda error: errors.append(str(error)))
        yield opened
        browser.close()
    assert errors == []


def test_what_the_reader_opened_closed_and_focused_stays_while_the_page_changes(fresh: Server, page: Any) -> None:
    state = fresh.http.post("/v1/evaluations", json=SPEC).raise_for_status().json()
    page.goto(fresh.url + state["links"]["page"])
    opened, closed = page.locator("#trust-0 details"), page.locator("#examples-0-1 details")
    closed.wait_for(timeout=60_000)
    if opened.get_attribute("open") is None:
        opened.locator("summary").click()
    closed.locator("summary").click()
    opened.locator("summary").focus()
    before = page.inner_text("#trust-0")
    page.locator(".status.done").wait_for(timeout=60_000)
    page.wait_for_function("!document.querySelector('[data-live]')")
    assert page.inner_text("#trust-0") != before, "the section has changed"
    assert opened.get_attribute("open") is not None
    assert closed.get_attribute("open") is None
    assert page.evaluate("document.activeElement === document.querySelector('#trust-0 summary')")
    patched = [page.inner_text(name) for name in ("#progress", "#table", "#attacks")]
    page.reload()
    assert patched == [page.inner_text(name) for name in ("#progress", "#table", "#attacks")]
