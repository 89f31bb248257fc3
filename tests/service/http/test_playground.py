"""One picture turned, flipped and attacked: what is answered is what the parts give."""

import io
from base64 import b64decode

import numpy as np
import pytest
import torch
from PIL import Image

import attacks
from attacks import Draws, ThreatModel
from common.pictures import open_picture
from service.serving.pictures.trial import TURNED
from tests.conftest import picture_bytes, shape_picture
from tests.server import Server

DISC = picture_bytes(shape_picture(0, np.random.default_rng(5)))


def test_every_version_is_classified_as_the_model_does(server: Server) -> None:
    answer = server.http.post("/v1/models/tiny/try", params={"eps": "16/255", "steps": 3}, content=DISC)
    trial = answer.raise_for_status().json()
    classifier = server.service.catalog.load_model("tiny")
    clean = classifier.card.preprocessing(open_picture(DISC)).unsqueeze(0)
    label, draws = classifier(clean).argmax(1), Draws.of(0, [0])
    threat = ThreatModel("Linf", 16 / 255)
    attacked = attacks.run_attack(attacks.create("pgd", steps=3), classifier, clean, label, threat=threat, draws=draws)
    images = torch.cat([clean, *(each.apply(clean, draws) for each in TURNED), attacked.adversarial])
    with torch.inference_mode():
        probabilities = classifier(images).softmax(1)
    assert [each["title"] for each in trial["views"]] == [
        "as it is", "rotation 90", "rotation 180", "rotation 270", "flip upside-down", "flip left-right", "PGD-3 Linf 16/255",
    ]  # fmt: skip
    for view, row in zip(trial["views"], probabilities, strict=True):
        assert view["top"][0]["index"] == int(row.argmax())
        assert view["top"][0]["probability"] == pytest.approx(float(row.max()), abs=1e-5)
        assert view["flipped"] == (int(row.argmax()) != int(label))
        assert view["attention"] is None, "a ResNet has none"
        assert Image.open(io.BytesIO(b64decode(view["picture"].partition(",")[2]))).size == (240, 240)
    assert trial["views"][6]["flipped"] == bool(attacked.flipped)


@pytest.mark.parametrize("query", ["eps=0", "eps=1e-191", "eps=9/8", "eps=x", "steps=0", "steps=101"])
def test_parameters_out_of_range_are_refused(server: Server, query: str) -> None:
    answer = server.http.post(f"/v1/models/tiny/try?{query}", content=DISC)
    assert answer.status_code == 422
    assert query.partition("=")[0] in answer.json()["errors"][0]["field"]


def test_what_is_no_picture_is_refused(server: Server) -> None:
    answer = server.http.post("/v1/models/tiny/try", content=b"no picture")
    assert answer.status_code == 422
    assert server.http.post("/v1/models/absent/try", content=DISC).status_code == 404
