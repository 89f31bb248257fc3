"""Attention over HTTP: numbers, pictures one can read, refusals."""

import asyncio
import io
import json
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import cli.main
import models
from common.pictures import open_picture
from evaluation import Catalog
from service.serving.errors import OverloadedError, TooLateError
from service.serving.pictures import drawing
from service.serving.pictures.explainer import MOST_WAITING, Explainer, explain
from service.settings import Settings
from tests.conftest import CLASSES, picture_bytes, shape_picture
from tests.server import DEADLINE_S, Server, serving
from withstand import Client, ClientError

DISC = picture_bytes(shape_picture(0, np.random.default_rng(5)))
LAST = {
    "san_mini_pairwise": "layer2.0.sam",
    "san_mini_patchwise": "layer2.0.sam",
    "dat_mini": "stages.2.attns.1",
    "aa_resnet_mini": "layer3.1.conv1",
    "multi_attention_mask_mini": "attention",
}
"""The default layer of every family; the models are named after their architectures."""
PLAIN = {"resnet_mini": 32, "se_resnet34": 64}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Untrained checkpoints."""
    folder = tmp_path_factory.mktemp("untrained")
    for name in (*LAST, *PLAIN):
        torch.manual_seed(0)
        side = PLAIN.get(name, 32)
        save_file(models.create(name, num_classes=3).state_dict(), folder / f"{name}.safetensors")
        card = models.ModelCard(
            architecture=name, classes=CLASSES, preprocessing=models.Preprocessing(resize=side, crop=side)
        )
        (folder / f"{name}.json").write_text(card.model_dump_json())
    return Catalog((folder,))


@pytest.fixture(scope="module")
def server(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("data")
    with serving(Settings(data_dir=data, model_dirs=catalog.model_folders, devices=("cpu",))) as running:
        yield running


def ask(
    http: httpx.Client, model: str, *, data: bytes = DISC, accept: str = "*/*", **parameters: str
) -> httpx.Response:
    return http.post(f"/v1/models/{model}/explain", content=data, params=parameters, headers={"Accept": accept})


def explained(http: httpx.Client, model: str, **parameters: str) -> dict[str, Any]:
    answer = ask(http, model, **parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refusal(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()


def overlay(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return open_picture(b64decode(data))


@pytest.mark.parametrize("model", LAST)
@pytest.mark.parametrize("query", [None, "0.25,0.75"])
def test_the_last_layer_is_explained(http: httpx.Client, catalog: Catalog, model: str, query: str | None) -> None:
    classifier = catalog.load_model(model)
    image = classifier.card.preprocessing(open_picture(DISC)).unsqueeze(0)
    place = None if query is None else (0.25, 0.75)
    (want,) = models.attention_maps(classifier, image, layer=LAST[model], query=place)
    body = explained(http, model, **({} if query is None else {"query": query}))
    assert (body["model"], body["file"], body["layer"]) == (model, "body", LAST[model])
    assert body["layers"] == models.attention_layers(classifier)
    assert body["kind"] == want.kind
    assert body["query"] == (None if place is None else list(place))
    assert np.array(body["maps"]) == pytest.approx(want.maps[0].numpy(), abs=1e-4)
    assert body["scale"] == pytest.approx(want.scale[0].tolist(), rel=1e-4)
    assert (body["points"] is None, body["scores"] is None) == (want.points is None, want.scores is None)
    if want.points is not None and want.scores is not None:
        assert np.array(body["points"]) == pytest.approx(want.points[0].numpy(), abs=1e-4)
        assert np.array(body["scores"]) == pytest.approx(want.scores[0].numpy(), abs=1e-5)
    assert [overlay(each).size for each in body["overlays"]] == [(drawing.PANEL, drawing.PANEL)] * len(body["maps"])


def test_the_predicted_class_is_that_of_a_prediction(http: httpx.Client) -> None:
    found = explained(http, "dat_mini")["top"]
    (prediction,) = http.post("/v1/models/dat_mini/predict", content=DISC).json()["predictions"]
    assert found["label"] == prediction["top"][0]["label"]
    assert found["probability"] == pytest.approx(prediction["top"][0]["probability"], abs=1e-5)


def test_a_form_and_any_layer_are_accepted(http: httpx.Client) -> None:
    url, layer = "/v1/models/san_mini_pairwise/explain", {"layer": "layer0.0.sam"}
    answer = http.post(url, files={"file": ("disc.png", DISC)}, params=layer)
    body = answer.json()
    assert (body["file"], body["layer"], np.shape(body["maps"])) == ("disc.png", "layer0.0.sam", (1, 16, 16))
    two = [("file", ("a", DISC)), ("file", ("b", DISC))]
    refusal(http.post(url, files=two), 413)


@pytest.mark.parametrize("model", LAST)
def test_a_png_shows_the_image_and_every_map(http: httpx.Client, model: str) -> None:
    maps = len(explained(http, model)["maps"])
    for answer in (ask(http, model, format="png", query="0.5,0.5"), ask(http, model, accept="image/png")):
        assert answer.headers["content-type"] == "image/png"
        picture = Image.open(io.BytesIO(answer.content))
        columns, rows = min(5, maps + 1), -(-(maps + 1) // 5)
        assert columns * drawing.PANEL < picture.width < columns * (drawing.PANEL + 20) + 20
        assert rows * drawing.PANEL < picture.height < rows * (drawing.PANEL + 40) + 140
    assert ask(http, model, accept="image/png", format="json").headers["content-type"] == "application/json"


def test_explanations_and_predictions_do_not_disturb_each_other(http: httpx.Client) -> None:
    def predict(model: str) -> Any:
        top = http.post(f"/v1/models/{model}/predict", content=DISC).json()["predictions"][0]["top"]
        return [each["probability"] for each in top]

    wanted = {model: (predict(model), explained(http, model)) for model in LAST}
    jobs = [*LAST, *LAST]
    with ThreadPoolExecutor(8) as threads:
        seen = list(zip(jobs, threads.map(predict, jobs), threads.map(lambda m: explained(http, m), jobs), strict=True))
    for model, top, body in seen:
        assert top == pytest.approx(wanted[model][0], abs=1e-5)
        assert body == wanted[model][1]


# Refusals


def test_unknown_names_are_suggested_the_nearest(http: httpx.Client) -> None:
    assert "Did you mean 'dat_mini'?" in refusal(ask(http, "dat_minni"), 404)["detail"]
    body = refusal(ask(http, "dat_mini", layer="stages.2.attns.0"), 404)
    assert "unknown layer 'stages.2.attns.0'. Did you mean 'stages." in body["detail"]
    assert "stages.1.attns.1, stages.2.attns.1" in body["detail"]


@pytest.mark.parametrize(
    ("model", "reason"), [("resnet_mini", "has no attention"), ("se_resnet34", "has channel attention only")]
)
def test_a_model_without_spatial_attention_is_refused(http: httpx.Client, model: str, reason: str) -> None:
    detail = refusal(ask(http, model), 422)["detail"]
    assert f"{model} {reason}" in detail
    assert "SAN" in detail


@pytest.mark.parametrize(
    "query", ["", "0.5", "0.5,", "a,b", "0.5,0.5,0.5", "nan,0", "0,inf", "-0.1,0.5", "0.5,1.1", "1e999,0", "9" * 4000]
)
def test_a_senseless_query_is_refused(http: httpx.Client, query: str) -> None:
    (error,) = refusal(ask(http, "dat_mini", query=query), 422)["errors"]
    assert error["field"] == "query"
    assert error["received"] == repr(query)[:200]
    assert "two numbers from 0 to 1" in error["message"]


@pytest.mark.parametrize("query", ["0,0", "1,1", "0,1", " 1 , 0 ", "0.999999999999,1e-300"])
def test_places_at_the_border_are_explained(http: httpx.Client, query: str) -> None:
    for model in LAST:
        assert explained(http, model, query=query)["query"] == [float(each) for each in query.split(",")]


def test_other_bad_requests_are_refused(http: httpx.Client) -> None:
    assert "0 bytes" in refusal(ask(http, "dat_mini", data=b""), 422)["detail"]
    assert refusal(ask(http, "dat_mini", data=b"no picture"), 422)["errors"][0]["received"] == "10 bytes"
    assert refusal(ask(http, "dat_mini", format="gif"), 422)["errors"][0]["field"] == "format"
    text = http.post("/v1/models/dat_mini/explain", content=DISC, headers={"Content-Type": "text/plain"})
    assert "text/plain" in refusal(text, 415)["detail"]
    strange = refusal(ask(http, "dat_mini", layer="\0" + "x" * 3000), 404)
    assert "Known: stages.1.attns.1" in strange["detail"]


def test_more_explanations_than_may_wait_are_refused_and_late_ones_dropped(catalog: Catalog) -> None:
    explainer, held = Explainer(catalog, "cpu", timeout_s=0.2), Event()

    async def crowd() -> list[object]:
        return await asyncio.gather(
            *(explainer.run(partial(held.wait, DEADLINE_S)) for _ in range(MOST_WAITING + 1)), return_exceptions=True
        )

    try:
        outcomes = asyncio.run(crowd())
        assert [*map(type, outcomes)] == [TooLateError] * MOST_WAITING + [OverloadedError]
    finally:
        held.set()
    assert asyncio.run(explainer.run(lambda: "at work again")) == "at work again"
    explainer.stop()


# From Python and on the command line


def test_the_client_asks_for_an_explanation(server: Server) -> None:
    with Client(server.url) as client:
        body = client.explain("dat_mini", DISC, layer="stages.1.attns.1", query=(0.25, 1.0))
        assert (body["layer"], body["query"]) == ("stages.1.attns.1", [0.25, 1.0])
        assert client.explain("dat_mini", DISC)["layer"] == LAST["dat_mini"]
        assert Image.open(io.BytesIO(client.explain_png("dat_mini", DISC))).format == "PNG"
        with pytest.raises(ClientError, match="404: unknown layer 'x'"):
            client.explain("dat_mini", DISC, layer="x")


def alike(found: object, expected: object) -> bool:
    """Equal but for the last bits of numbers."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(alike(found[k], expected[k]) for k in found)
        )
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(alike, found, expected))
    return found == (pytest.approx(expected, abs=1e-3) if isinstance(expected, float) else expected)


def test_the_command_writes_the_png_of_the_service(http: httpx.Client, catalog: Catalog, tmp_path: Path) -> None:
    picture, out = tmp_path / "disc.png", tmp_path / "seen.png"
    picture.write_bytes(DISC)
    folder = ["--model-dir", str(catalog.model_folders[0]), "--device", "cpu"]
    arguments = ["explain", "dat_mini", str(picture), "--out", str(out), "--query", "0.25,0.75", *folder]
    said = CliRunner().invoke(cli.main.app, arguments)
    assert said.exit_code == 0, said.output
    served = ask(http, "dat_mini", query="0.25,0.75", format="png").content
    drawn, expected = (np.asarray(Image.open(io.BytesIO(each))).astype(int) for each in (out.read_bytes(), served))
    assert np.abs(drawn - expected).max() <= 2  # the last bits of a forward pass depend on its number of threads
    assert f"{out}: stages.2.attns.1: attention that the query pays" in said.output
    body = json.loads(CliRunner().invoke(cli.main.app, [*arguments, "--json"]).output)
    want = explained(http, "dat_mini", query="0.25,0.75") | {"file": str(picture)}
    assert alike(body, {key: value for key, value in want.items() if key != "overlays"})
    for wrong, reason in ((["--query", "2,2"], "a point is `y,x`"), (["--layer", "x"], "unknown layer 'x'")):
        assert reason in str(CliRunner().invoke(cli.main.app, [*arguments, *wrong]).exception)


# Pictures


def attention(maps: torch.Tensor, **others: torch.Tensor) -> models.AttentionMap:
    return models.AttentionMap(
        "layer", "kind", maps[None], maps.amax((1, 2))[None], **{k: v[None] for k, v in others.items()}
    )


def lightness(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L")).astype(float)


def test_lightness_grows_with_the_value() -> None:
    assert (np.diff(lightness(Image.fromarray(drawing.colours(np.linspace(0, 1, 64)[None])))[0]) > 0).mean() > 0.9


@pytest.mark.parametrize("cell", [(0, 0), (1, 3), (3, 1)])
def test_an_overlay_is_brightest_where_the_map_is_highest(cell: tuple[int, int]) -> None:
    maps = torch.full((2, 4, 4), 0.2)
    maps[0][cell] = 1
    bright, even = map(lightness, drawing.overlays(torch.full((3, 32, 32), 0.5), attention(maps), None))
    y, x = np.unravel_index(bright.argmax(), bright.shape)
    assert (y * 4 // drawing.PANEL, x * 4 // drawing.PANEL) == cell
    assert np.ptp(even) == 0


def test_the_image_shows_through_and_the_query_is_marked() -> None:
    image = torch.zeros(3, 32, 32)
    image[:, :, 16:] = 1
    flat = attention(torch.full((1, 4, 4), 0.5))
    (plain,) = map(lightness, drawing.overlays(image, flat, None))
    assert plain[:, -1].min() > plain[:, 0].max() + 20
    (crossed,) = map(lightness, drawing.overlays(image, flat, (0.25, 0.75)))
    ys, xs = np.nonzero(crossed != plain)
    assert (ys.mean() / drawing.PANEL, xs.mean() / drawing.PANEL) == pytest.approx((0.25, 0.75), abs=0.02)


def test_points_are_dots_larger_for_higher_scores() -> None:
    points = torch.tensor([[[0.25, 0.75], [0.75, 0.25], [5.0, -5.0]]])
    flat, image = torch.full((1, 4, 4), 0.5), torch.full((3, 32, 32), 0.5)
    (plain,) = drawing.overlays(image, attention(flat), None)
    (dotted,) = drawing.overlays(image, attention(flat, points=points, scores=torch.tensor([[0.6, 0.3, 0.1]])), None)
    changed = lightness(plain) != lightness(dotted)
    half = drawing.PANEL // 2
    high, low = changed[:half, half:], changed[half:, :half]
    assert high.sum() > 2 * low.sum() > 0
    assert changed.sum() == high.sum() + low.sum()
    y, x = np.argwhere(high).mean(0)
    assert (y, x) == pytest.approx((half / 2, half / 2), abs=1.5)


def test_many_maps_long_names_and_broken_numbers_are_drawn(catalog: Catalog) -> None:
    classifier = catalog.load_model("dat_mini")
    image = torch.rand(3, 32, 32)
    with torch.no_grad():
        next(classifier.network.parameters()).fill_(float("nan"))
    broken = explain(classifier, image, model="m" * 128, file="\u4e2d\n" * 50)
    assert Image.open(io.BytesIO(broken.as_png())).height < 1000
    assert "null" in broken.as_json().model_dump_json()
    sheet = drawing.grid("\U0001f984" * 999, "facts " * 999, [("caption", drawing.panel(image))] * 25)
    assert sheet.width < 1300
    assert sheet.height < 1700
