"""The pages of models and of data sets: what their twins say, and why what cannot be used cannot."""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from models import complexity, load
from service.http.pages.routes import models as models_page
from service.http.routes import models as models_route
from service.settings import Settings
from tests.conftest import CLASSES, Put
from tests.server import EVIL, Server, serving, until
from tests.service.http.asked import PGD, finished
from tests.service.http.page import Page
from tests.service.http.test_callers import key
from tests.service.http.test_start_page import section, words

RTL = "\N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED}"
LOOKS = "san_mini_pairwise.fashion_mnist"


@pytest.fixture(scope="module")
def odd(settings: Settings, put_checkpoint: Put, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with models and data sets of strange names, and with some that cannot be used; keys tell who is an admin."""
    folder = tmp_path_factory.mktemp("odd")
    store = folder / "data" / "models"
    store.mkdir(parents=True)
    for name in ("<b>bold", RTL, "x" * 120):
        put_checkpoint(folder, name)
    put_checkpoint(folder, "listed", classes=(EVIL, RTL, "y" * 300))
    put_checkpoint(folder, "narrow", options={"widths": [4, 4, 4], "blocks": 1})
    for name in ("mine", "mine@2"):
        put_checkpoint(store, name)
    (folder / "junk.zip").write_bytes(b"junk")
    with zipfile.ZipFile(folder / "strange.zip", "w") as archive:
        for name in (EVIL.replace("/", "|"), RTL):
            archive.writestr(f"{name}/0.png", picture())
        archive.writestr("notes.txt", "hello")
    changed = {
        "data_dir": folder / "data",
        "model_dirs": (*settings.model_dirs, folder),
        "dataset_dirs": (*settings.dataset_dirs, folder),
        "api_keys": frozenset({"one"}),
        "admin_keys": frozenset({"owner"}),
    }
    with serving(settings.model_copy(update=changed)) as running:
        running.http.headers.update(key("owner"))
        yield running


def picture() -> bytes:
    """A picture of 300 x 200 pixels."""
    data = io.BytesIO()
    Image.new("RGB", (300, 200), (200, 10, 10)).save(data, "PNG")
    return data.getvalue()


def shown(http: httpx.Client, path: str) -> Page:
    return Page(http.get(path).raise_for_status().text)


def row(html: str, name: str) -> str:
    """The text of a model's row or a data set's."""
    found = [words(each) for each in re.findall(r"<tr id.*?</tr>", html, re.DOTALL)]
    return next(each for each in found if each.split()[0] == name)


def test_the_table_of_models_has_what_an_evaluation_measured(fresh: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "tiny resnet_mini" in section(fresh.http.get("/models").text, "models")
    state = finished(fresh.http, models=["tiny", "twin"], images=9, conditions=[{"kind": "clean"}, PGD])
    report = fresh.http.get(state["links"]["report"]).json()["models"][0]
    monkeypatch.setattr(models_route, "COUNTING_S", -1.0)
    assert "counting" in row(fresh.http.get("/models").text, "tiny")
    monkeypatch.setattr(models_route, "COUNTING_S", 60.0)
    until(lambda: "data-live" not in fresh.http.get("/models").text)
    html = fresh.http.get("/models").text
    scores = [
        f"{100 * each['value']:.1f} % [{100 * each['low']:.1f}, {100 * each['high']:.1f}], n = 9"
        for each in (report["conditions"][0]["accuracy"], report["conditions"][1]["robust_accuracy"])
    ]
    tiny = row(html, "tiny")
    assert f"{scores[0]} on shapes {scores[1]} PGD-2 Linf 8/255 {report['grade']}" in tiny
    assert tiny.endswith("1 not loaded load")
    assert state["links"]["page"] in Page(html).addresses
    (listed,) = (each for each in fresh.http.get("/v1/models").json() if each["name"] == "tiny")
    classifier = load("tiny", folders=fresh.service.catalog.model_folders)
    counted = complexity(classifier.network, (3, 32, 32))
    assert (listed["parameters"], listed["macs"]) == (counted.parameters, counted.macs)
    assert f"resnet_mini {counted.parameters:,} {counted.macs:,} 3" in tiny
    assert listed["measured"]["evaluation"] == state["id"]
    assert listed["measured"]["clean_accuracy"] == report["conditions"][0]["accuracy"]
    assert (listed["measured"]["lowest_under"], listed["measured"]["classes"]) == ("PGD-2 Linf 8/255", None)


def test_the_page_of_a_model_shows_its_card_its_classes_and_its_evaluations(fresh: Server) -> None:
    state = finished(fresh.http, images=9, conditions=[{"kind": "clean"}])
    html = fresh.http.get("/models/tiny").text
    twin = fresh.http.get("/v1/models/tiny").json()
    assert "resized to 32, cropped to 32" in section(html, "card")
    assert twin["sha256"] in section(html, "card")
    assert {each["name"] for each in twin["measured"]["classes"]} == {*CLASSES}
    assert sum(each["clean_accuracy"]["n"] for each in twin["measured"]["classes"]) == 9
    values = [each["clean_accuracy"]["value"] for each in twin["measured"]["classes"]]
    assert values == sorted(values, reverse=True)
    for each in twin["measured"]["classes"]:
        assert f"{each['name']} {100 * each['clean_accuracy']['value']:.1f} % [" in section(html, "by_class")
    assert state["links"]["page"] in Page(html).addresses
    assert "/new?model=tiny" in Page(html).addresses
    assert section(html, "attention") == ""
    assert words(html).count("sha256") == 1


def test_only_the_best_and_the_worst_of_many_classes_are_shown(fresh: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(fresh.http, images=9, conditions=[{"kind": "clean"}])
    monkeypatch.setattr(models_page, "CLASSES_SHOWN", 1)
    names = [each["name"] for each in fresh.http.get("/v1/models/tiny").json()["measured"]["classes"]]
    text = section(fresh.http.get("/models/tiny").text, "by_class")
    assert re.findall(r"(best|worst) classes class clean accuracy (\w+)", text) == [
        ("best", names[0]),
        ("worst", names[2]),
    ]


def test_attention_is_drawn_on_an_image_of_a_data_set_that_fits(fresh: Server) -> None:
    until(lambda: "data-live" not in fresh.http.get("/datasets").text)
    until(lambda: "data-live" not in fresh.http.get(f"/models/{LOOKS}").text)
    html = fresh.http.get(f"/models/{LOOKS}").text
    (image,) = [found for tag, found in Page(html).tags if tag == "img"]
    assert image["src"] == f"/models/{LOOKS}/attention.png?dataset=fashion_mnist_test"
    assert image["loading"] == "lazy"
    answer = fresh.http.get(str(image["src"])).raise_for_status()
    assert Image.open(io.BytesIO(answer.content)).format == "PNG"
    assert answer.headers["cache-control"] == "private, max-age=3600"
    assert fresh.http.get("/models/tiny/attention.png?dataset=shapes").status_code == 422
    assert fresh.http.get(f"/models/{LOOKS}/attention.png?dataset=none").status_code == 404


def test_those_who_may_load_unload_and_remove_models(odd: Server) -> None:
    def offered(name: str) -> dict[str, str]:
        tags = Page(odd.http.get("/models", headers=key(name)).text).tags
        return {
            str(found["data-path"]): str(found["data-method"])
            for tag, found in tags
            if tag == "button" and "data-path" in found
        }

    assert offered("one") == {}
    assert 'class="upload"' not in odd.http.get("/models", headers=key("one")).text
    assert 'class="upload"' not in odd.http.get("/datasets", headers=key("one")).text
    buttons = offered("owner")
    assert {"/v1/models/tiny/load": "POST", "/v1/models/mine@1/load": "POST"}.items() <= buttons.items()
    removable = {path for path, method in buttons.items() if method == "DELETE"}
    assert removable == {"/v1/models/mine", "/v1/models/mine@2"}
    odd.http.post("/v1/models/mine@2/load").raise_for_status()
    assert row(odd.http.get("/models").text, "mine@2").endswith("2, default cpu unload remove")
    assert "2 default mine@2 cpu unload" in section(odd.http.get("/models/mine").text, "serving")
    odd.http.post("/v1/models/mine@2/unload").raise_for_status()
    assert row(odd.http.get("/models").text, "mine@2").endswith("not loaded load remove")


def test_what_cannot_be_used_says_why_on_its_page(odd: Server) -> None:
    assert "narrow.safetensors does not fit resnet_mini" in shown(odd.http, "/models/narrow").text
    assert "This data set cannot be used: junk.zip is not a readable zip file" in shown(odd.http, "/datasets/junk").text
    for path in ("/models/none", "/datasets/none", "/v1/datasets/none", "/datasets/shapes?model=none"):
        assert odd.http.get(path).status_code == 404
    assert odd.http.get("/v1/datasets/junk").status_code == 422


def test_strange_names_are_escaped_and_linked_only_if_a_route_takes_them(odd: Server) -> None:
    until(lambda: "data-live" not in odd.http.get("/datasets").text)
    for path in ("/models", "/models/listed", "/datasets/strange", "/datasets/strange?model=listed"):
        html = odd.http.get(path).text
        assert "<script>alert" not in html
        assert "<b>bold" not in html
        assert {tag for tag, _ in Page(html).tags}.isdisjoint({"b>bold", "iframe"})
    table = shown(odd.http, "/models")
    assert RTL in table.text
    assert "<b>bold" in table.text
    models = [each for each in table.addresses if each.startswith("/models/")]
    assert "/models/" + "x" * 120 in models
    assert all(re.fullmatch(r"/models/[\w.@-]+", each, re.ASCII) for each in models)
    assert EVIL in shown(odd.http, "/models/listed").text


def test_a_data_set_shows_its_classes_and_how_they_match_a_model(odd: Server) -> None:
    html = odd.http.get("/datasets/shapes?model=tiny").text
    assert "33 images in 3 classes" in words(html)
    assert "found among those of tiny by name" in words(html)
    for place, name in enumerate(CLASSES):
        assert f"/datasets/shapes/classes/{place}.png" in Page(html).addresses
        assert f"{name} 11 {name}" in words(html)
    twin = odd.http.get("/v1/datasets/shapes?model=tiny").json()
    assert twin["images_by_class"] == dict.fromkeys(CLASSES, 11)
    assert twin["match"]["classes"] == {each: each for each in CLASSES}
    assert twin["size_bytes"] == odd.service.catalog.datasets()["shapes"].stat().st_size
    refused = odd.http.get("/v1/datasets/strange?model=tiny").json()
    assert (refused["match"]["rule"], refused["ignored"]) == (None, 1)
    assert refused["match"]["problem"] in shown(odd.http, "/datasets/strange?model=tiny").text
    assert "1 file beside them is no picture" in words(odd.http.get("/datasets/strange").text)


def test_previews_are_small_and_kept_by_browsers(odd: Server) -> None:
    answer = odd.http.get("/datasets/strange/classes/1.png").raise_for_status()
    assert Image.open(io.BytesIO(answer.content)).size == (128, 85)
    assert answer.headers["cache-control"] == "private, max-age=3600"
    assert odd.http.get("/datasets/strange/classes/2.png").status_code == 404


def test_a_size_is_that_of_all_files_of_a_folder(settings: Settings, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "sets" / "plain" / name).mkdir(parents=True)
        (tmp_path / "sets" / "plain" / name / "0.png").write_bytes(picture())
    changed = {"dataset_dirs": (tmp_path / "sets",), "data_dir": tmp_path / "data"}
    with serving(settings.model_copy(update=changed)) as server:
        until(lambda: "data-live" not in server.http.get("/datasets").text)
        assert row(server.http.get("/datasets").text, "plain") == "plain 2 2 1.3 kB"
        (found,) = (each for each in server.http.get("/v1/datasets").json() if each["name"] == "plain")
        assert found["size_bytes"] == 2 * len(picture())
