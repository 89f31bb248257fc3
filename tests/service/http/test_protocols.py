"""What can be asked for, as the service lists it."""

import httpx

import attacks
import evaluation
import models
from tests.server import Server


def test_every_preset_is_explained_and_can_be_submitted(http: httpx.Client) -> None:
    listed = {each["name"]: each for each in http.get("/v1/presets").json()}
    assert list(listed) == evaluation.preset_names()
    for name, each in listed.items():
        assert len(each["explanation"]) > 40
        assert each["source"]
        asked = {"models": ["tiny"], "dataset": "shapes", "images": 3, "conditions": each["conditions"]}
        spec = evaluation.EvaluationSpec.model_validate(asked)
        assert spec.conditions == evaluation.preset(name)


def test_a_preset_is_submitted_by_its_name(http: httpx.Client) -> None:
    body = {"models": ["tiny"], "dataset": "shapes", "images": 3, "precision": "bfloat16"}
    answer = http.post("/v1/evaluations/san-pgd", json=body)
    assert answer.status_code == 202
    spec = evaluation.EvaluationSpec.model_validate(answer.json()["spec"])
    assert spec.conditions == evaluation.preset("san-pgd")
    assert spec.precision == "bfloat16"


def test_an_unknown_preset_is_refused(http: httpx.Client) -> None:
    assert http.post("/v1/evaluations/pgd-30", json={"models": ["tiny"], "dataset": "shapes"}).status_code == 405


def test_every_preset_has_a_route_that_explains_it(server: Server) -> None:
    paths = server.app.openapi()["paths"]
    for preset in evaluation.list_presets():
        assert preset.explanation in paths[f"/v1/evaluations/{preset.name}"]["post"]["description"]


def test_every_architecture_is_listed(http: httpx.Client) -> None:
    listed = {each["name"]: each for each in http.get("/v1/architectures").json()}
    assert [*listed] == models.names()
    assert listed["resnet50"]["input_shape"] == [3, 224, 224]
    assert all(each["paper"] for each in listed.values())


def test_every_attack_and_transform_is_listed_with_its_parameters(http: httpx.Client) -> None:
    listed = {each["name"]: each for each in http.get("/v1/attacks").json()}
    assert list(listed) == attacks.attack_names() + attacks.transform_names()
    pgd, deepfool, rotation = (listed[name] for name in ("pgd", "torchattacks:DeepFool", "rotation"))
    assert pgd["norms"] == ["L2", "Linf"]
    assert (pgd["kind"], deepfool["kind"], rotation["kind"]) == ("budget", "minimal", "transform")
    assert pgd["parameters"]["steps"] == {
        "type": "integer",
        "title": "Steps",
        "minimum": 1,
        "maximum": 10_000,
        "default": 20,
        "description": "gradient steps",
    }
    assert deepfool["parameters"]["overshoot"]["default"] == 0.02
    assert not deepfool["targetable"]
    for each in listed.values():
        assert each["explanation"]
        for parameter in each["parameters"].values():
            assert parameter.keys() & {"type", "anyOf", "enum"}, each["name"]
