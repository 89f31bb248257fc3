"""Pictures in, classes out; hostile uploads."""

import base64
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import models
from common.pictures import open_picture
from evaluation import Catalog
from service.settings import Settings
from tests.conftest import CLASSES, picture_bytes
from tests.service.pictures import DISC, SQUARE, STRIPES, URL, labels, png_of_zeros, refusal, shape

PNG = {"Content-Type": "image/png"}


def expected(catalog: Catalog, data: bytes, model: str = "tiny") -> list[float]:
    """Probabilities in the order of the classes, computed without the service."""
    classifier = models.load(model, folders=catalog.model_folders)
    with torch.inference_mode():
        return classifier(classifier.card.preprocessing(open_picture(data)).unsqueeze(0))[0].softmax(0).tolist()


def scores(prediction: dict[str, Any]) -> list[float]:
    return [each["probability"] for each in sorted(prediction["top"], key=lambda each: each["index"])]


@pytest.mark.parametrize(
    "headers",
    [
        PNG,
        {},
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "image/jpeg; q=1"},
    ],
    ids=str,
)
def test_the_bytes_of_a_picture_are_enough(http: httpx.Client, catalog: Catalog, headers: dict[str, str]) -> None:
    answer = http.post(URL, content=SQUARE, headers=headers)
    assert labels(answer) == ["square"]
    body = answer.json()
    assert (body["model"], body["predictions"][0]["file"], body["predictions"][0]["error"]) == ("tiny", "body", None)
    assert scores(body["predictions"][0]) == pytest.approx(expected(catalog, SQUARE), abs=1e-6)
    probabilities = [each["probability"] for each in body["predictions"][0]["top"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_a_form_may_hold_one_file_or_many_and_the_order_is_kept(http: httpx.Client, catalog: Catalog) -> None:
    assert labels(http.post(URL, files={"file": ("a.png", DISC)})) == ["disc"]
    files = [("file", ("s.png", STRIPES)), ("file", ("d.png", DISC)), ("other", ("q", SQUARE)), ("file", ("d", DISC))]
    answer = http.post(URL, files=files)
    assert labels(answer) == ["stripes", "disc", "square", "disc"]
    predictions = answer.json()["predictions"]
    assert [each["file"] for each in predictions] == ["s.png", "d.png", "q", "d"]
    for each, data in zip(predictions, (STRIPES, DISC, SQUARE, DISC), strict=True):
        assert scores(each) == pytest.approx(expected(catalog, data), abs=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3, 1000])
def test_top_k_limits_the_classes(http: httpx.Client, k: int) -> None:
    top = http.post(URL, content=DISC, params={"top_k": k}).json()["predictions"][0]["top"]
    assert len(top) == min(k, len(CLASSES))
    assert all(CLASSES[each["index"]] == each["label"] for each in top)


@pytest.mark.parametrize("k", ["0", "1001", "many"])
def test_a_senseless_top_k_is_refused(http: httpx.Client, k: str) -> None:
    body = refusal(http.post(URL, content=DISC, params={"top_k": k}), 422)
    assert (body["errors"][0]["field"], body["errors"][0]["received"]) == ("top_k", repr(k))


@pytest.mark.parametrize("content_type", ["text/plain", "video/mp4", "multipart/mixed"])
def test_another_content_type_is_refused(http: httpx.Client, content_type: str) -> None:
    body = refusal(http.post(URL, content=DISC, headers={"Content-Type": content_type}), 415)
    assert content_type in body["detail"]
    assert "multipart/form-data" in body["detail"]


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_pictures_may_come_in_base64(http: httpx.Client, catalog: Catalog) -> None:
    answer = http.post(URL, json={"images": [base64_of(STRIPES), f"data:image/png;base64,{base64_of(DISC)}"]})
    assert labels(answer) == ["stripes", "disc"]
    for each, data in zip(answer.json()["predictions"], (STRIPES, DISC), strict=True):
        assert scores(each) == pytest.approx(expected(catalog, data), abs=1e-5)
    assert [each["file"] for each in answer.json()["predictions"]] == ["images.0", "images.1"]


def test_a_broken_picture_in_base64_fails_alone(http: httpx.Client) -> None:
    answer = http.post(URL, json={"images": [base64_of(b"no picture"), base64_of(SQUARE)]})
    bad, good = answer.json()["predictions"]
    assert (bad["error"]["field"], bad["error"]["received"]) == ("images.0", "10 bytes")
    assert good["top"][0]["label"] == "square"


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"images": []}, 422, "no picture was sent"),
        ({"images": [base64_of(DISC), "?"]}, 422, "images.1: not base64"),
        ({"images": ["é"]}, 422, "images.0: not base64"),
        ({"images": [7]}, 422, "images.0"),
        ({"images": "x"}, 422, "images"),
        ({}, 422, "images"),
        ({"images": [], "more": 1}, 422, "more"),
        ({"images": [base64_of(DISC)] * 5}, 413, "5 pictures were sent, at most 4 are allowed"),
    ],
)
def test_json_that_holds_no_pictures_is_refused(http: httpx.Client, body: object, status: int, reason: str) -> None:
    assert reason in refusal(http.post(URL, json=body), status)["detail"]


def test_a_body_that_is_no_json_is_refused(http: httpx.Client) -> None:
    answer = http.post(URL, content=DISC, headers={"Content-Type": "application/json"})
    assert "Invalid JSON" in refusal(answer, 422)["detail"]


def test_no_picture_at_all_is_refused(http: httpx.Client) -> None:
    assert "0 bytes" in refusal(http.post(URL), 422)["detail"]
    assert "0 bytes" in refusal(http.post(URL, files={"file": ("empty.png", b"")}), 422)["detail"]
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    text = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nnot a file\r\n--x--\r\n'
    for form in (b"--x--\r\n", text):
        body = refusal(http.post(URL, content=form, headers=multipart), 422)
        assert body["errors"] == [{"field": "file", "message": "no file in the form", "received": None}]


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        ("multipart/form-data", DISC),
        ("multipart/form-data; boundary=x", DISC),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n"),
    ],
    ids=["no boundary", "no form", "no name"],
)
def test_a_broken_form_is_refused(http: httpx.Client, content_type: str, form: bytes) -> None:
    assert refusal(http.post(URL, content=form, headers={"Content-Type": content_type}), 400)["detail"]


def test_too_many_files_are_refused(http: httpx.Client, settings: Settings) -> None:
    files = [("file", (f"{index}.png", DISC)) for index in range(settings.max_images + 1)]
    assert len(labels(http.post(URL, files=files[1:]))) == settings.max_images
    body = refusal(http.post(URL, files=files), 413)
    assert str(settings.max_images) in body["detail"]


def test_a_broken_picture_fails_alone(http: httpx.Client) -> None:
    broken = [b"", b"no picture", DISC[:-40], b"GIF89a", DISC[:60] + b"\xff" * 30 + DISC[90:]]
    for data in broken:
        answer = http.post(URL, files=[("file", ("good", DISC)), ("file", ("bad", data)), ("file", ("last", SQUARE))])
        assert answer.status_code == 200
        good, bad, last = answer.json()["predictions"]
        assert (good["top"][0]["label"], last["top"][0]["label"]) == ("disc", "square")
        assert bad["top"] == []
        assert (bad["error"]["field"], bad["error"]["received"]) == ("bad", f"{len(data)} bytes")


def test_where_all_pictures_are_broken_the_request_is_refused(http: httpx.Client) -> None:
    body = refusal(http.post(URL, files=[("file", ("a", b"no")), ("file", ("b", DISC[:50]))]), 422)
    assert [each["field"] for each in body["errors"]] == ["a", "b"]
    assert all(each["message"] for each in body["errors"])


def test_a_small_file_with_very_many_pixels_is_refused_before_it_is_decoded(http: httpx.Client) -> None:
    bomb = png_of_zeros(20_000)
    assert len(bomb) < 100_000
    for data in (bomb, bomb[:200]):  # decoding the second would fail for another reason
        assert "pixels, at most 50000000 are allowed" in refusal(http.post(URL, content=data), 422)["detail"]
    larger = refusal(http.post(URL, content=png_of_zeros(7_100)), 422)
    assert "the picture has 7100 x 7100 pixels, at most 50000000 are allowed" in larger["detail"]
    assert labels(http.post(URL, content=DISC)) == ["disc"]


def test_a_large_body_is_refused_while_it_is_read(http: httpx.Client, settings: Settings) -> None:
    large = b"\0" * (settings.max_body_bytes + 1)
    pieces = iter([large[:-1], b"\0"])
    for answer in (
        http.post(URL, content=large, headers=PNG),
        http.post(URL, content=pieces, headers=PNG),
        http.post(URL, files={"file": ("large", large)}),
        http.post("/v1/evaluations", content=large, headers={"Content-Type": "application/json"}),
    ):
        refusal(answer, 413)


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()


KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "grey PNG": lambda grey: encoded(grey, "PNG"),
    "grey and alpha PNG": lambda grey: encoded(grey.convert("LA"), "PNG"),
    "RGBA PNG": lambda grey: encoded(grey.convert("RGBA"), "PNG"),
    "palette PNG": lambda grey: encoded(grey.convert("P"), "PNG"),
    "transparent palette PNG": lambda grey: encoded(grey.convert("P"), "PNG", transparency=bytes(range(256))),
    "16-bit PNG": lambda grey: encoded(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"),
    "16-bit TIFF": lambda grey: encoded(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "TIFF"),
    "BMP": lambda grey: encoded(grey.convert("RGB"), "BMP"),
    "PGM": lambda grey: encoded(grey, "PPM"),
    "lossless WebP": lambda grey: encoded(grey.convert("RGB"), "WEBP", lossless=True),
    "LZW TIFF": lambda grey: encoded(grey, "TIFF", compression="tiff_lzw"),
    "CMYK TIFF": lambda grey: encoded(grey.convert("RGB").convert("CMYK"), "TIFF"),
    "animated GIF": lambda grey: encoded(grey, "GIF", save_all=True, append_images=[Image.new("L", grey.size)]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_gives_the_same_answer(http: httpx.Client, catalog: Catalog, kind: str) -> None:
    grey = shape(1)
    answer = http.post(URL, content=KINDS[kind](grey))
    assert answer.status_code == 200, answer.text
    assert scores(answer.json()["predictions"][0]) == pytest.approx(expected(catalog, SQUARE), abs=1e-5)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_are_answered(http: httpx.Client, mode: str) -> None:
    assert labels(http.post(URL, content=encoded(shape(1).convert("RGB").convert(mode), "JPEG"))) == ["square"]


def test_a_picture_without_a_known_range_fails_alone(http: httpx.Client) -> None:
    integers = encoded(Image.fromarray(np.asarray(shape(0)).astype(np.int32)), "TIFF")
    floats = encoded(Image.fromarray(np.asarray(shape(0)).astype(np.float32)), "TIFF")
    wide_pgm = b"P5 2 2 65535\n" + bytes(8)
    for data in (integers, floats, wide_pgm):
        answer = http.post(URL, files=[("file", ("bad", data)), ("file", ("good", DISC))])
        assert answer.status_code == 200, answer.text
        bad, good = answer.json()["predictions"]
        assert "has no fixed range of values: save it with 8 or 16 bits" in bad["error"]["message"]
        assert good["top"][0]["label"] == "disc"
        refusal(http.post(URL, content=data), 422)


def test_random_bytes_of_every_format_never_break_the_server(http: httpx.Client) -> None:
    generator = np.random.default_rng(0)
    for data in (KINDS[kind](shape(0)) for kind in ("RGBA PNG", "LZW TIFF", "animated GIF", "BMP", "lossless WebP")):
        for _ in range(8):
            broken = np.frombuffer(data, np.uint8).copy()
            where = generator.integers(0, min(len(broken), 200), 6)
            broken[where] = generator.integers(0, 256, 6)
            assert http.post(URL, content=broken.tobytes()).status_code in {200, 422}


def test_an_unknown_model_is_suggested_the_nearest(http: httpx.Client) -> None:
    body = refusal(http.post("/v1/models/tinny/predict", content=DISC), 404)
    assert "unknown model 'tinny'. Did you mean 'tiny'?" in body["detail"]
    assert "twin" in body["detail"]


@pytest.mark.parametrize(
    "name", ["..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "..", "tiny%00", "%F0%9F%A6%84", ".tiny", "a" * 129]
)
def test_a_name_is_never_a_path(http: httpx.Client, name: str) -> None:
    for answer in (http.post(f"/v1/models/{name}/predict", content=DISC), http.get(f"/v1/models/{name}")):
        assert answer.status_code in {404, 422}
        assert answer.headers["content-type"] == "application/problem+json"


def test_many_requests_at_once_each_get_their_own_answer(http: httpx.Client, catalog: Catalog) -> None:
    pictures = [picture_bytes(shape(index % 3, seed=index)) for index in range(12)]
    jobs = [(pictures[index % 12], ("tiny", "twin")[index % 2]) for index in range(48)]

    def ask(job: tuple[bytes, str]) -> list[float]:
        answer = http.post(f"/v1/models/{job[1]}/predict", content=job[0])
        return scores(answer.json()["predictions"][0])

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, jobs))
    wanted = [expected(catalog, picture) for picture in pictures]
    assert len({tuple(each) for each in wanted}) == len(pictures), "the pictures can be told apart"
    for index, answer in enumerate(answers):
        assert answer == pytest.approx(wanted[index % 12], abs=1e-5)
