"""What people do on pages, in a real browser."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from service.settings import Settings
from tests.server import Server, serving, until
from tests.service.http.asked import FLIP, SPEC, body, finished
from tests.service.http.test_costly import costly
from tests.service.http.test_playground import DISC


def test_what_the_reader_opened_and_focused_stays_while_the_page_changes(fresh: Server, page: Page) -> None:
    state = fresh.http.post("/v1/evaluations", json=SPEC | {"selection_seed": 5}).raise_for_status().json()
    page.goto(f"{fresh.url}{state['links']['page']}/trust")
    opened = page.locator("#trust-0 details")
    opened.wait_for(timeout=60_000)
    if opened.get_attribute("open") is None:
        opened.locator("summary").click()
    opened.locator("summary").focus()
    before = page.inner_text("#trust-0")
    page.locator(".status.done").wait_for(timeout=60_000)
    page.wait_for_function("!document.querySelector('[data-live]')")
    assert page.inner_text("#trust-0") != before, "the section has changed"
    assert opened.get_attribute("open") is not None
    assert page.evaluate("document.activeElement === document.querySelector('#trust-0 summary')")
    patched = [page.text_content(name) for name in ("#progress", "#trust-0")]
    page.reload()
    assert patched == [page.text_content(name) for name in ("#progress", "#trust-0")]


def test_what_the_reader_closed_stays_closed_while_the_page_changes(fresh: Server, page: Page) -> None:
    state = fresh.http.post("/v1/evaluations", json=SPEC | {"selection_seed": 6}).raise_for_status().json()
    page.goto(f"{fresh.url}{state['links']['page']}/images")
    closed = page.locator("#examples-0-1 details")
    closed.wait_for(timeout=60_000)
    closed.locator("summary").click()
    page.locator(".status.done").wait_for(timeout=60_000)
    page.wait_for_function("!document.querySelector('[data-live]')")
    assert closed.get_attribute("open") is None


def test_pictures_are_looked_at_at_full_size_by_keyboard(fresh: Server, page: Page) -> None:
    state = finished(fresh.http, **SPEC)
    page.goto(f"{fresh.url}{state['links']['page']}/images")
    figures = page.locator(".gallery figure")
    captions = figures.locator("figcaption").all_inner_texts()
    figures.first.locator("img").nth(1).press("Enter")
    dialog = page.locator("dialog")
    assert captions[0] in dialog.inner_text()
    slider = dialog.get_by_role("slider")
    assert slider.input_value() == "0"
    slider.press("End")
    assert page.evaluate("getComputedStyle(document.querySelector('.pair .changed')).clipPath").startswith(
        "inset(0px 0px 0px 100%"
    )
    dialog.get_by_role("button", name="difference").press("Enter")
    assert dialog.get_by_role("button", name="difference").get_attribute("aria-pressed") == "true"
    dialog.press("ArrowRight")
    assert captions[1] in dialog.inner_text()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_an_evaluation_is_named_and_deleted_on_its_page(fresh: Server, page: Page) -> None:
    state = finished(fresh.http, **SPEC | {"images": 4})
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(f"{fresh.url}{state['links']['page']}")
    page.get_by_text("Name, tags, note").click()
    page.locator("[name=name]").fill("Mine")
    page.locator("[name=tags]").fill("one  two")
    page.locator("[name=note]").fill("a\nb")
    page.get_by_role("button", name="save").click()
    page.get_by_role("heading", name="Mine").wait_for()
    label = fresh.http.get(state["links"]["self"]).json()["label"]
    assert label == {"name": "Mine", "tags": ["one", "two"], "note": "a\nb"}
    page.get_by_role("link", name="two").click()
    page.get_by_role("button", name="delete Mine").click()
    page.wait_for_url("**/evaluations")
    assert fresh.http.get(state["links"]["self"]).status_code == 404


def test_an_evaluation_is_controlled_by_the_buttons_of_its_page_and_of_the_first_one(fresh: Server, page: Page) -> None:
    http = fresh.http
    state = http.post("/v1/evaluations", json=body(conditions=[costly(), FLIP], images=5)).raise_for_status().json()
    said: list[str] = []
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.accept()))
    page.goto(fresh.url + state["links"]["page"])
    for button, status in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        page.get_by_role("button", name=button).click()
        page.locator(f"#progress .status.{status}").wait_for(timeout=30_000)
        assert http.get(state["links"]["self"]).json()["status"] == status
    page.wait_for_function("!document.querySelector('#progress button')")
    assert said.pop().startswith("Cancel the evaluation of tiny on shapes?")
    waiting = http.post("/v1/evaluations", json=body(conditions=[costly(), FLIP], images=5, seed=1)).json()
    page.goto(fresh.url)
    page.get_by_role("button", name="pause").first.click()
    page.locator(".status.paused").wait_for(timeout=30_000)
    http.delete(waiting["links"]["self"]).raise_for_status()
    with page.expect_event("dialog"):
        page.get_by_role("button", name="resume").click()
    page.locator(".status.paused").wait_for(state="detached", timeout=30_000)
    assert "is cancelled and cannot be resumed" in "".join(said)


def test_the_queue_is_controlled_from_its_page_by_keyboard(fresh: Server, page: Page) -> None:
    http, console = fresh.http, list[str]()
    page.on("console", lambda message: console.append(message.text))
    page.goto(fresh.url + "/queue")
    press(page, "pause the queue")
    page.get_by_role("button", name="resume the queue").wait_for(timeout=30_000)
    assert http.get("/v1/queue").json()["paused"]
    assert page.evaluate("document.activeElement.innerText") == "resume", "the focus stays where it was"
    first, second = (
        http.post("/v1/evaluations", json=body(conditions=[costly()], images=5, seed=seed)).json()["id"]
        for seed in (21, 22)
    )
    rows = page.locator("tr[id^=waiting-]")
    page.locator(f"#waiting-{second}").wait_for(timeout=30_000)
    page.locator(f"#waiting-{second}").evaluate("row => row.known = true")
    press(page.locator(f"#waiting-{second}"), "raise the priority of the evaluation of tiny on shapes")
    page.locator(f"#waiting-{second}", has_text="high").wait_for(timeout=30_000)
    assert rows.evaluate_all("rows => rows.map(row => row.id)") == [f"waiting-{each}" for each in (second, first)]
    assert page.locator(f"#waiting-{second}").evaluate("row => row.known"), "the row has moved"
    assert http.get(f"/v1/evaluations/{second}").json()["priority"] == "high"
    said: list[str] = []
    page.once("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    press(page.locator(f"#waiting-{first}"), "cancel the evaluation of tiny on shapes")
    until(lambda: said)
    assert http.get(f"/v1/evaluations/{first}").json()["status"] == "paused", "the reader said no"
    page.once("dialog", lambda dialog: dialog.accept())
    press(page.locator(f"#waiting-{first}"), "cancel the evaluation of tiny on shapes")
    page.locator(f"#waiting-{first}").wait_for(state="detached", timeout=30_000)
    assert http.get(f"/v1/evaluations/{first}").json()["status"] == "cancelled"
    http.delete(f"/v1/evaluations/{second}").raise_for_status()
    press(page, "resume the queue")
    page.get_by_role("button", name="pause the queue").wait_for(timeout=30_000)
    assert console == []


def press(where: Any, name: str) -> None:
    """Use a button as one who has no mouse."""
    button = where.get_by_role("button", name=name)
    button.focus()
    button.press("Enter")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/queue", "/models", "/models/evil", "/datasets", "/datasets/shapes?model=evil"])
def test_pages_fit_a_phone(fresh: Server, page: Page, path: str, scheme: str) -> None:
    http = fresh.http
    http.post("/v1/evaluations", json=body(images=3)).raise_for_status()
    waiting = http.post("/v1/evaluations", json=body(conditions=[costly()], images=5, seed=31)).json()
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(fresh.url + path)
    page.locator("h1").first.wait_for(timeout=30_000)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("document.documentElement.scrollHeight") < 8_000
    http.delete(waiting["links"]["self"]).raise_for_status()


def test_without_its_script_a_page_has_no_buttons(fresh: Server, page: Page) -> None:
    context = page.context.browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(fresh.url + "/queue")
    buttons = opened.locator("button")
    assert buttons.count() > 0
    assert not any(buttons.nth(each).is_visible() for each in range(buttons.count()))
    context.close()


@pytest.mark.parametrize("path", ["/", "/queue", "/models", "/models/tiny", "/datasets", "/datasets/shapes", "/docs"])
def test_pages_keep_to_their_own_policy(fresh: Server, page: Page, path: str) -> None:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(fresh.url + path)
    page.locator(".opblock" if path == "/docs" else "h1").first.wait_for(timeout=60_000)
    assert said == []


def test_a_form_of_another_site_changes_nothing(fresh: Server, page: Page) -> None:
    unload = f"{fresh.url}/v1/models/tiny/unload"
    form = f"<form method=post action={unload}></form>"
    page.route("https://evil.example/", lambda route: route.fulfill(content_type="text/html", body=form))
    page.goto("https://evil.example/")
    with page.expect_response(unload) as answer:
        page.evaluate("document.forms[0].submit()")
    assert answer.value.status == 403


def test_a_reader_signs_in_with_a_key_and_out_again(settings: Settings, tmp_path: Path, page: Page) -> None:
    with serving(settings.model_copy(update={"api_keys": frozenset({"a-key"}), "data_dir": tmp_path})) as guarded:
        page.goto(f"{guarded.url}/queue")
        page.get_by_label("API key").fill("b-key")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_text("There is no such API key.").wait_for()
        page.get_by_label("API key").fill("a-key")
        page.keyboard.press("Enter")
        page.wait_for_url("**/queue")
        page.goto(f"{guarded.url}/sign-in")
        page.get_by_role("button", name="sign out").click()
        page.get_by_label("API key").wait_for()
        page.goto(guarded.url)
        assert page.url.startswith(f"{guarded.url}/sign-in")


def test_an_evaluation_is_asked_for_with_the_form(fresh: Server, page: Page) -> None:
    page.goto(f"{fresh.url}/new")
    page.get_by_label("tiny").check()
    page.locator("[name=dataset]").select_option("shapes")
    page.get_by_label("Number of images").fill("6")
    page.get_by_text("Add an attack").click()
    page.locator("[name=added]").select_option("attack fgsm")
    page.get_by_role("button", name="add it").click()
    page.get_by_text("Input should be a valid").wait_for()
    page.locator("[data-choice=fgsm]").get_by_label("Radius eps").fill("2/255")
    page.get_by_role("button", name="add it").click()
    page.get_by_text("FGSM Linf 2/255").first.wait_for()
    page.get_by_label("rotation-flip").check()
    page.locator("[name=name]").fill("Turned & attacked")
    page.locator("[name=tags]").fill("first  try")
    page.get_by_text("7 conditions").wait_for()
    page.get_by_role("button", name="estimate the time").click()
    page.get_by_text("on one device").wait_for(timeout=60_000)
    page.get_by_role("button", name="Evaluate").click()
    page.wait_for_url("**/evaluations/*")
    (found,) = fresh.http.get("/v1/evaluations", params={"search": "attacked"}).json()["evaluations"]
    assert page.url.endswith(found["id"])
    assert found["label"] == {"name": "Turned & attacked", "tags": ["first", "try"], "note": ""}
    assert (found["spec"]["images"], len(found["spec"]["conditions"])) == (6, 7)


def test_a_picture_is_tried_on_several_models(fresh: Server, page: Page) -> None:
    page.goto(f"{fresh.url}/playground")
    page.get_by_label("twin").check()
    picture = {"name": "disc.png", "mimeType": "image/png", "buffer": DISC}
    page.locator("#picture").set_input_files([picture])
    page.locator("#views .gallery").nth(1).wait_for(timeout=60_000)
    figures = page.locator("#views .gallery").first.locator("figure")
    assert figures.count() == 8, "as it is, five turned or flipped, attacked, and the difference"
    page.locator("[name=eps]").fill("31")
    page.get_by_text("PGD-10 Linf 31/255").first.wait_for(timeout=60_000)
    page.get_by_label("what the attention weighs").check()
    page.get_by_text("This model has no attention").first.wait_for(timeout=60_000)
    page.locator("#picture").set_input_files([picture | {"name": "text.png", "buffer": b"no picture"}])
    page.locator("#views .warning").first.wait_for(timeout=60_000)
    assert page.locator("#views img").count() == 0
