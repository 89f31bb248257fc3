"""The Hugging Face client's image classification, unchanged."""

import base64
from pathlib import Path

import httpx
import pytest
import torch
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

import models
from common.pictures import open_picture
from evaluation import Catalog
from tests.conftest import CLASSES
from tests.server import Server
from tests.service.pictures import DISC, SQUARE, STRIPES, refusal

URL = "/v1/models/tiny/classify"


def logits_of(catalog: Catalog, data: bytes) -> torch.Tensor:
    classifier = models.load("tiny", folders=catalog.model_folders)
    with torch.inference_mode():
        return classifier(classifier.card.preprocessing(open_picture(data)).unsqueeze(0))[0]


@pytest.fixture
def hugging_face(server: Server) -> InferenceClient:
    return InferenceClient(model=f"{server.url}{URL}", token="any-key")


def test_bytes_are_classified(hugging_face: InferenceClient, catalog: Catalog) -> None:
    found = hugging_face.image_classification(SQUARE)
    want = logits_of(catalog, SQUARE).softmax(0)
    assert found[0].label == "square"
    assert {each.label: each.score for each in found} == pytest.approx(
        dict(zip(CLASSES, want.tolist(), strict=True)), abs=1e-4
    )
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


def test_a_file_is_classified(hugging_face: InferenceClient, tmp_path: Path) -> None:
    path = tmp_path / "stripes.png"
    path.write_bytes(STRIPES)
    assert hugging_face.image_classification(path)[0].label == "stripes"


@pytest.mark.parametrize("k", [1, 2])
def test_top_k_limits_the_classes(hugging_face: InferenceClient, k: int) -> None:
    found = hugging_face.image_classification(DISC, top_k=k)
    assert (len(found), found[0].label) == (k, "disc")


def test_scores_are_made_as_asked_for(hugging_face: InferenceClient, catalog: Catalog) -> None:
    logits = logits_of(catalog, DISC).sort(descending=True).values
    for name, want in (("none", logits), ("sigmoid", logits.sigmoid()), ("softmax", logits.softmax(0))):
        found = hugging_face.image_classification(DISC, function_to_apply=name)  # pyright: ignore[reportArgumentType]
        assert [each.score for each in found] == pytest.approx(want.tolist(), abs=1e-4)


def test_a_broken_picture_becomes_the_clients_error(hugging_face: InferenceClient) -> None:
    with pytest.raises(HfHubHTTPError, match="not a picture: 10 bytes"):
        hugging_face.image_classification(b"no picture")
    with pytest.raises(HfHubHTTPError, match="not a picture: 10 bytes"):
        hugging_face.image_classification(b"no picture", top_k=2)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "inputs"),
        ({"inputs": "?"}, "inputs"),
        ({"inputs": 7}, "inputs"),
        ({"inputs": base64.b64encode(DISC).decode(), "parameters": {"top_k": 0}}, "parameters.top_k"),
        ({"images": []}, "images"),
    ],
)
def test_wrong_json_is_refused(http: httpx.Client, body: object, field: str) -> None:
    assert field in {each["field"] for each in refusal(http.post(URL, json=body), 422)["errors"]}


def test_several_pictures_are_refused(http: httpx.Client) -> None:
    assert http.post(URL, files=[("file", ("a", DISC)), ("file", ("b", DISC))]).status_code == 413
