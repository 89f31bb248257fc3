"""A real browser: Debian's Chromium, where it is installed."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.server import fresh, server, settings

__all__ = ["fresh", "server", "settings"]

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Open for one module alone: as long as it is, the loop that it is driven by runs, and other tests want their own."""
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page whose script's errors fail the test."""
    errors: list[str] = []
    with browser.new_context(viewport={"width": 600, "height": 500}) as context:
        opened = context.new_page()
        opened.on("pageerror", lambda error: errors.append(str(error)))
        yield opened
    assert errors == []
