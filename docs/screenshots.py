"""Takes the pictures of pages again: follow docs/tutorial.md on a new service, then `python -m docs.screenshots [URL]`."""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

import evaluation
from withstand import Client

DOCS = Path(__file__).parent
MODELS = ["resnet_mini.fashion_mnist", "resnet_mini.fashion_mnist_pgd", "san_mini_patchwise.fashion_mnist"]


def paths(client: Client) -> dict[str, str]:
    """Give the address of each page, by the name of its picture; evaluates what the tutorial does not."""
    conditions = evaluation.conditions_of(["rotation-flip", "curve", "pgd-20"])
    asked = [each.model_dump(mode="json") for each in conditions]
    job = client.evaluate({"models": MODELS, "dataset": "fashion_mnist_test", "images": 20, "conditions": asked})
    job.wait(progress=True)
    of = {tuple(each["spec"]["models"]): each["id"] for each in reversed(client.evaluations())}
    return {
        "start": "/",
        **{name: f"/evaluations/{job.id}/{name}" for name in ("table", "curves", "images")},
        "trust": f"/evaluations/{of['mine', 'guessed']}/trust",
        "compare": f"/compare?evaluation={of['mine', MODELS[1]]}",
        "playground": "/playground",
        "models": "/models",
    }


def take(page: Page, name: str, address: str) -> None:
    """Save a page as docs/images/NAME.png, with 128 colours."""
    page.goto(address)
    if name == "playground":
        page.set_input_files("#picture", DOCS / "dress.png")
        page.wait_for_selector("#views figure")
    page.wait_for_load_state("networkidle" if name in {"images", "playground"} else "load")
    shot = Image.open(io.BytesIO(page.screenshot()))
    shot.convert("RGB").quantize(128).save(DOCS / "images" / f"{name}.png", optimize=True)


def main(url: str = "http://127.0.0.1:8000") -> None:
    """Take all pictures from a service."""
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with Client(url) as client, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        for name, path in paths(client).items():
            take(page, name, url + path)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
