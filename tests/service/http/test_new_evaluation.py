"""The form of a new evaluation: what its fields mean, and what is said of those that mean nothing."""

import json
from html import unescape
from typing import Any

import pytest

import evaluation
from evaluation import EvaluationSpec
from service.http.pages.evaluation_form import MOST_FIELDS, FormError, condition_of, fields_of, spec_of
from tests.server import Server
from tests.service.http.asked import PGD, SPEC, body, finished
from tests.service.http.page import Page

LEAST = {"models": ["tiny"], "dataset": ["shapes"]}


def preview(server: Server, **fields: list[str]) -> Page:
    return Page(server.http.post("/new/preview", json=fields).raise_for_status().text)


def previewed(page: Page) -> dict[str, Any]:
    """The body that the form would submit."""
    (found,) = [attributes["data-spec"] for _, attributes in page.tags if "data-spec" in attributes]
    return json.loads(found or "")


def test_what_is_previewed_is_what_the_fields_ask_for_and_can_be_submitted(fresh: Server) -> None:
    fields = LEAST | {
        "presets": ["rotation-flip", "pgd-20"],
        "eps": ["4/255"],
        "norm": ["Linf"],
        "images": ["7"],
        "seed": ["3"],
    }
    page = preview(fresh, **fields)
    asked = previewed(page)
    conditions = evaluation.conditions_of(["rotation-flip", "pgd-20"], evaluation.preset("demo")[-2].threat)
    assert EvaluationSpec.model_validate(asked) == EvaluationSpec(
        models=("tiny",), dataset="shapes", images=7, seed=3, conditions=conditions
    )
    assert "1 model \N{MULTIPLICATION SIGN} 7 conditions \N{MULTIPLICATION SIGN} 7 images" in page.text
    assert json.loads(page.text.partition("-d '")[2].partition("'\n")[0]) == asked
    answer = fresh.http.post("/v1/evaluations", json=asked).raise_for_status().json()
    fresh.http.delete(answer["links"]["self"])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dataset": ["shapes"]}, "models: choose at least one"),
        ({"models": ["tiny"]}, "dataset: choose one"),
        (LEAST | {"images": ["0"]}, "images: Input should be greater than or equal to 1, got 0"),
        (LEAST | {"images": ["many"]}, "images: Input should be a valid integer, got 'many'"),
        (LEAST | {"stop_width": ["NaN"]}, "stop_width"),
        (LEAST | {"presets": ["pgd-20"], "eps": ["8"]}, "write 8/255 for 8-bit steps"),
        (LEAST | {"presets": ["angles"], "eps": ["1/255"]}, "an eps needs a preset that attacks"),
        (LEAST | {"presets": ["nothing"]}, "nothing"),
        (LEAST | {"conditions": ["{"]}, "Invalid JSON"),
        (LEAST | {"conditions": ['{"kind": "clean", "<script>": 1}']}, "<script>"),
        ({"models": ["absent"], "dataset": ["shapes"]}, "absent"),
        ({"models": ["tiny"], "dataset": ["absent"]}, "absent"),
        (LEAST | {f"f{number}": ["1"] for number in range(MOST_FIELDS)}, f"at most {MOST_FIELDS} are read"),
        (LEAST | {"presets": ["pgd-20"] * 501}, "at most 500 values"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_and_cannot_be_submitted(
    server: Server, fields: dict[str, list[str]], reason: str
) -> None:
    page = preview(server, **fields)
    assert reason in page.text
    assert not any("data-spec" in attributes or tag == "script" for tag, attributes in page.tags)


def test_what_costs_too_much_is_refused_before_it_is_submitted(server: Server) -> None:
    added = condition_of(
        {
            "added": ["attack pgd"],
            "pgd.(norm)": ["Linf"],
            "pgd.(eps)": ["8/255"],
            "pgd.steps": ["10000"],
            "pgd.(restarts)": ["1000"],
        }
    )
    page = preview(server, **LEAST, conditions=[added.model_dump_json()])
    assert "WITHSTAND_IMAGE_PASSES" in page.text


@pytest.mark.parametrize(
    ("fields", "title"),
    [
        ({"added": ["attack pgd"], "pgd.(norm)": ["L2"], "pgd.(eps)": ["0.5"], "pgd.steps": ["7"]}, "PGD-7 L2 0.5"),
        (
            {
                "added": ["attack pgd"],
                "pgd.(norm)": ["Linf"],
                "pgd.(eps)": ["8/255"],
                "pgd.(targets)": ["random"],
                "pgd.steps": [""],
            },
            "PGD-20 Linf 8/255 to random",
        ),
        (
            {"added": ["transform rotation"], "rotation.degrees": ["30"], "flip.direction": ["left_right"]},
            "rotation 30",
        ),
        (
            {
                "added": ["attack square"],
                "square.(norm)": ["Linf"],
                "square.(eps)": ["1/255"],
                "square.(restarts)": ["2"],
            },
            "x 2",
        ),
    ],
    ids=str,
)
def test_an_attack_or_change_is_added_with_its_parameters(
    server: Server, fields: dict[str, list[str]], title: str
) -> None:
    condition = condition_of(fields)
    assert title in condition.title
    html = server.http.post("/new/condition", json=fields).raise_for_status().text
    (value,) = [attributes["value"] for _, attributes in Page(html).tags if attributes.get("name") == "conditions"]
    assert spec_of(LEAST | {"conditions": [value or ""]}).conditions == (condition,)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"added": ["attack pgd"], "pgd.(norm)": ["Linf"]}, "eps"),
        ({"added": ["attack pgd"], "pgd.(norm)": ["Linf"], "pgd.(eps)": ["1/255"], "pgd.steps": ["0"]}, "steps"),
        ({"added": ["attack square"], "square.(norm)": ["L0"], "square.(eps)": ["3"]}, "does not support L0"),
        ({"added": ["attack absent"]}, "absent"),
        ({"added": ["transform flip"], "flip.direction": ["sideways"]}, "left_right"),
        ({}, "unknown transform"),
    ],
    ids=str,
)
def test_parameters_that_are_wrong_are_said(server: Server, fields: dict[str, list[str]], reason: str) -> None:
    with pytest.raises(FormError, match=reason):
        condition_of(fields)
    assert reason in unescape(server.http.post("/new/condition", json=fields).raise_for_status().text)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"images": 9, "stop_width": 0.05, "on_broken": "skip", "logits": "dataset", "seed": 7},
        {"randomised": True, "eot_passes": 30, "judged_passes": 15},
        {"randomised": False},
    ],
)
def test_a_specification_comes_back_from_the_fields_it_is_written_into(more: dict[str, Any]) -> None:
    spec = EvaluationSpec.model_validate(SPEC | {"conditions": [{"kind": "clean"}, PGD]} | more)
    assert spec_of(fields_of(spec)) == spec


def test_the_form_is_filled_in_from_an_evaluation_or_an_address(fresh: Server) -> None:
    state = finished(fresh.http, **body(images=5, seed=4))
    filled = Page(fresh.http.get(f"/new?like={state['id']}").raise_for_status().text)
    values = {
        attributes.get("name"): attributes.get("value") for _, attributes in filled.tags if attributes.get("value")
    }
    assert (values["images"], values["seed"]) == ("5", "4")
    chosen = [attributes["value"] for tag, attributes in filled.tags if tag == "input" and "checked" in attributes]
    assert chosen == state["spec"]["models"]
    assert [
        json.loads(attributes["value"] or "") for _, attributes in filled.tags if attributes.get("name") == "conditions"
    ] == (state["spec"]["conditions"])
    chosen = [
        attributes["value"]
        for tag, attributes in Page(fresh.http.get("/new?model=tiny&dataset=shapes").text).tags
        if tag == "input" and "checked" in attributes
    ]
    assert chosen == ["tiny"]
    assert fresh.http.get("/new?like=0123456789abcdef").status_code == 404
