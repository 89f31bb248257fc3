"""Every page, at two widths and in both colour schemes: no errors, nothing hidden, no serious fault of accessibility."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from tests.server import Server, until
from tests.service.http.asked import PGD, SPEC, finished

LARGEST_BYTES, HIGHEST_PX = 300_000, 8_000
PAGES = (
    "/",
    "/new",
    "/models",
    "/models/tiny",
    "/datasets",
    "/datasets/shapes",
    "/evaluations",
    "/playground",
    "/queue",
)
TABS = ("", "/curves", "/classes", "/calibration", "/images", "/trust", "/methods")


@pytest.fixture(scope="module")
def paths(server: Server) -> list[str]:
    """The pages, with those of an evaluation of two models."""
    until(lambda: "counting" not in server.http.get("/datasets").text)
    state = finished(
        server.http, **SPEC | {"models": ["tiny", "twin"], "conditions": [{"kind": "clean"}, PGD], "images": 20}
    )
    page = state["links"]["page"]
    return [*PAGES, *(page + tab for tab in TABS), f"/compare?evaluation={state['id']}"]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        (390, "dark"),
        pytest.param(1280, "dark", marks=pytest.mark.thorough),
        pytest.param(390, "light", marks=pytest.mark.thorough),
    ],
)
def test_every_page_can_be_read_by_everyone(
    server: Server, browser: Browser, paths: list[str], width: int, scheme: str
) -> None:
    axe, faults = Axe(), list[str]()
    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme) as context:
        page = context.new_page()
        page.on("console", lambda said: faults.append(f"{page.url}: {said.text}"))
        page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))
        for path in paths:
            page.goto(server.url + path)
            page.wait_for_timeout(400)  # scripts
            high, wide = page.evaluate("[document.documentElement.scrollHeight, document.documentElement.scrollWidth]")
            if wide > width or high > HIGHEST_PX or len(page.content()) > LARGEST_BYTES:
                faults.append(f"{path}: {wide} x {high} px, {len(page.content())} bytes")
            found = axe.run(page).response["violations"]
            faults += [
                f"{path}: {each['id']}: {each['nodes'][0]['html']}"
                for each in found
                if each["impact"] in {"serious", "critical"}
            ]
    assert faults == []
