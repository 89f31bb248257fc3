"""Models and data sets added on their pages, in a real browser."""

from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page

import models
from tests.server import Server
from tests.service.adding import other, own, store, tiny

__all__ = ["other", "own", "store", "tiny"]


@pytest.fixture
def form(own: Server, page: Page) -> Any:
    """The form for models, opened."""
    return opened(page, own.url + "/models")


def opened(page: Page, url: str) -> Any:
    page.goto(url)
    page.locator("#upload summary").click()
    return page.locator("form.upload")


def add(form: Any, file: Path, name: str = "") -> None:
    form.locator("[name=file]").set_input_files(file)
    form.locator("[name=name]").fill(name)
    form.get_by_role("button", name="Add").click()


def test_questions_are_answered_in_the_form_until_the_model_is_listed(
    own: Server, page: Page, form: Any, other: Path
) -> None:
    add(form, other, "asked")
    classes = form.get_by_label("classes")
    classes.wait_for(timeout=60_000)
    assert "these questions are open" in form.locator(".answer").inner_text()
    assert classes.input_value() == "class_0\nclass_1\nclass_2"
    crop = form.get_by_label("preprocessing.crop")
    classes.fill("cat\n two words \n<b>bird")
    form.get_by_label("preprocessing.mean").fill("a lot")
    form.get_by_role("button", name="Add").click()
    form.locator(".answer", has_text="preprocessing.mean").wait_for(timeout=60_000)
    assert classes.input_value() == "cat\n two words \n<b>bird", "what was written stays"
    form.get_by_label("preprocessing.mean").fill("[0.1, 0.2, 0.3]")
    size = int(crop.input_value())
    form.get_by_role("button", name="Add").click()
    page.wait_for_url("**/models/asked", timeout=60_000)
    card = own.http.get("/v1/models/asked").json()
    assert card["classes"] == ["cat", "two words", "<b>bird"]
    assert (card["preprocessing"]["mean"], card["preprocessing"]["crop"]) == ([0.1, 0.2, 0.3], size)
    page.goto(own.url + "/models")
    page.get_by_role("link", name="asked").wait_for()


def test_a_model_is_loaded_unloaded_and_removed_on_the_page(own: Server, page: Page, form: Any, tiny: Path) -> None:
    form.get_by_label("take the likely answer").check()
    add(form, tiny)
    page.wait_for_url("**/models/my.tiny", timeout=60_000)
    page.get_by_role("button", name="load my.tiny@1").click()
    page.get_by_role("button", name="unload my.tiny@1").wait_for(timeout=60_000)
    page.goto(own.url + "/models")
    page.get_by_role("button", name="unload my.tiny").click()
    page.get_by_role("button", name="load my.tiny", exact=True).wait_for(timeout=60_000)
    said: list[str] = []
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.accept()))
    page.get_by_role("button", name="remove my.tiny").click()
    page.get_by_role("button", name="remove my.tiny").wait_for(state="detached", timeout=60_000)
    assert said == ["Remove my.tiny? Its file and its card are deleted."]
    assert own.http.get("/v1/models/my.tiny").status_code == 404


def test_a_file_that_fits_nothing_shows_the_nearest_architecture(form: Any, tmp_path: Path) -> None:
    tensors = models.create("resnet_mini").state_dict()
    tensors["neck.weight"] = tensors.pop("fc.weight")
    torch.save(tensors, tmp_path / "odd.pth")
    add(form, tmp_path / "odd.pth")
    answer = form.locator(".answer")
    answer.locator("text=The nearest architecture is resnet_mini").wait_for(timeout=60_000)
    answer.get_by_text("missing: 1").click()
    assert answer.locator("pre").first.inner_text() == "fc.weight"


def test_refusals_are_shown_in_the_words_of_the_service(form: Any, tiny: Path, tmp_path: Path) -> None:
    said = form.locator(".answer .warning")

    def refused(file: Path, words: str, name: str = "") -> None:
        add(form, file, name)
        said.filter(has_text=words).wait_for(timeout=60_000)
        assert form.get_by_role("button", name="Add").is_enabled()
        assert form.locator("progress").is_hidden()

    refused(tiny, "there is a model 'resnet_mini.fashion_mnist' already", "resnet_mini.fashion_mnist")
    refused(tiny, "name: String should match pattern", "a b")
    (tmp_path / "text.txt").write_text("hello")
    refused(tmp_path / "text.txt", "text.txt")
    (tmp_path / "large.pth").write_bytes(bytes(5 * 2**20))
    refused(tmp_path / "large.pth", f"the file has {5 * 2**20} bytes, at most {4 * 2**20} are allowed")


def test_a_data_set_is_added_by_dropping_it(own: Server, page: Page, shapes_zip: Path) -> None:
    form = opened(page, own.url + "/datasets")
    made = """data => {
        const dropped = new DataTransfer();
        dropped.items.add(new File([Uint8Array.from(atob(data), (each) => each.charCodeAt(0))], "dropped.zip"));
        return dropped;
    }"""
    dropped = page.evaluate_handle(made, b64encode(shapes_zip.read_bytes()).decode())
    form.dispatch_event("drop", {"dataTransfer": dropped})
    form.get_by_role("button", name="Add").click()
    page.wait_for_url("**/datasets/dropped", timeout=60_000)
    page.get_by_text("33 images in 3 classes").wait_for()
    page.get_by_label("Compare its classes").select_option("resnet_mini.fashion_mnist")
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/datasets/dropped?model=resnet_mini.fashion_mnist", timeout=60_000)
    assert "the classes of dropped.zip are not those of resnet_mini.fashion_mnist" in page.inner_text("main")
