"""Evaluations that are refused: by field, with what was received and what is allowed, and nothing is written."""

from typing import Any

import httpx
import pytest

from tests.service.http.asked import FLIP, PGD, URL, body, ids, problem


def adversarial(eps: object = "8/255", **parameters: object) -> dict[str, Any]:
    attack = {"name": "pgd", "parameters": parameters}
    return body(conditions=[PGD | {"threat": {"norm": "Linf", "eps": eps}, "attacks": [attack]}])


# What is sent, the field that is named, what the message must say, what it must repeat of what was received.
BAD: dict[str, tuple[dict[str, Any], str, str, str | None]] = {
    "nothing": ({}, "models", "Field required", None),
    "an unknown field": (body(modells=["x"]), "modells", "Extra inputs are not permitted", "['x']"),
    "no model": (body(models=[]), "models", "at least 1 item", "[]"),
    "an unknown model": (body(models=["tinny"]), "models", "'tinny'. Did you mean 'tiny'? Known: ", None),
    "a model twice": (body(models=["tiny", "tiny"]), "models", "named twice: tiny", "['tiny', 'tiny']"),
    "a model that is a path": (body(models=["../../etc/passwd"]), "models.0", "match pattern", "'../../etc/passwd'"),
    "a model that is a number": (body(models=[7]), "models.0", "valid string", "7"),
    "an unknown data set": (body(dataset="shape"), "dataset", "'shape'. Did you mean 'shapes'?", None),
    "other classes": (body(dataset="fashion_mnist_test"), "dataset", "are not those of tiny", None),
    "no images": (body(images=0), "images", "greater than or equal to 1", "0"),
    "too many images": (body(images=34), "images", "34 images asked for, shapes.zip has 33", None),
    "half an image": (body(images=1.5), "images", "valid integer", "1.5"),
    "a negative seed": (body(seed=-1), "seed", "greater than or equal to 0", "-1"),
    "a huge seed": (body(seed=2**63), "seed", "less than 9223372036854775808", str(2**63)),
    "another precision": (body(precision="float16"), "precision", "'float32'", "'float16'"),
    "no condition": (body(conditions=[]), "conditions", "at least 1 item", "[]"),
    "a condition twice": (body(conditions=[FLIP, FLIP]), "conditions", "named twice: flip upside-down", "flip"),
    "an unknown condition": (body(conditions=[{"kind": "magic"}]), "conditions.0", "'clean', 'transform'", "magic"),
    "an unknown transform": (
        body(conditions=[FLIP | {"name": "flop"}]),
        "conditions.0.transform.parameters",
        "unknown transform 'flop'. Did you mean 'flip'?",
        "upside_down",
    ),
    "an unknown attack": (
        body(conditions=[PGD | {"attacks": [{"name": "pdg"}]}]),
        "conditions.0.adversarial.attacks.0.parameters",
        "unknown attack 'pdg'. Did you mean 'pgd'?",
        None,
    ),
    "an unknown parameter": (
        adversarial(stps=3),
        "conditions.0.adversarial.attacks.0.parameters",
        "unknown parameter of pgd 'stps'. Did you mean 'steps'?",
        "{'stps': 3}",
    ),
    "a bad parameter": (
        adversarial(steps=0),
        "conditions.0.adversarial.attacks.0.parameters",
        "greater than or equal to 1, got 0",
        "{'steps': 0}",
    ),
    "a negative eps": (adversarial(-1), "conditions.0.adversarial.threat.eps", "greater than or equal to 0", "-1"),
    "eps over zero": (adversarial("8/0"), "conditions.0.adversarial.threat.eps", "a number or a fraction", "'8/0'"),
    "eps nan": (adversarial("nan"), "conditions.0.adversarial.threat.eps", "greater than or equal to 0", "'nan'"),
    "eps without end": (adversarial("inf"), "conditions.0.adversarial.threat.eps", "less than or equal to", "'inf'"),
    "eps true": (adversarial(True), "conditions.0.adversarial.threat.eps", "a number or a fraction", "True"),
    "eps on another scale": (adversarial(8), "conditions.0.adversarial.threat", "write 8/255 for 8-bit steps", "8"),
    "an unknown norm": (
        body(conditions=[PGD | {"threat": {"norm": "L7", "eps": 1}}]),
        "conditions.0.adversarial.threat.norm",
        "'Linf', 'L2', 'L1' or 'L0'",
        "'L7'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_specification_is_refused_by_name_and_nothing_is_written(http: httpx.Client, case: str) -> None:
    sent, field, message, received = BAD[case]
    before = ids(http.get(URL).json())
    found = problem(http.post(URL, json=sent), 422)
    named = next((each for each in found["errors"] if each["field"] == field), None)
    assert named is not None, found["errors"]
    assert message in named["message"]
    assert message in found["detail"]
    if received is not None:
        assert received in named["received"]
    assert ids(http.get(URL).json()) == before
    assert http.get("/readyz").status_code == 200


RAW: dict[str, tuple[bytes, str, int]] = {
    "nothing": (b"", "application/json", 422),
    "half a JSON": (b'{"models": ["tiny"', "application/json", 422),
    "a list": (b"[]", "application/json", 422),
    "a text": (b'"tiny"', "application/json", 422),
    "not UTF-8": (b'{"models": ["\xff"]}', "application/json", 422),
    "very deep": (b"[" * 100_000, "application/json", 422),
    "a very long number": (b'{"seed": ' + b"9" * 5_000 + b"}", "application/json", 422),
    "NaN": (b'{"models": ["tiny"], "dataset": "shapes", "seed": NaN}', "application/json", 422),
    "half a character": (b'{"models": ["tiny"], "dataset": "shapes", "\\ud800": "\\ud800"}', "application/json", 422),
    "a form": (b"models=tiny&dataset=shapes", "application/x-www-form-urlencoded", 422),
    "plain text": (b'{"models": ["tiny"], "dataset": "shapes"}', "text/plain", 422),
}


@pytest.mark.parametrize("case", RAW)
@pytest.mark.parametrize("path", ["", "/pgd", "/rotation-flip"])
def test_what_is_no_specification_is_refused(http: httpx.Client, case: str, path: str) -> None:
    content, content_type, status = RAW[case]
    problem(http.post(URL + path, content=content, headers={"Content-Type": content_type}), status)
    assert http.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    ("path", "fields", "field"),
    [
        ("pgd", {"eps": []}, "eps"),
        ("pgd", {"eps": [-0.1]}, "eps.0"),
        ("pgd", {"eps": ["8/255", "x/255"]}, "eps.1"),
        ("pgd", {"eps": [8]}, "eps"),
        ("pgd", {"eps": ["8/255", 8 / 255]}, "eps"),
        ("pgd", {"steps": 0}, "steps"),
        ("pgd", {"steps": 10_001}, "steps"),
        ("pgd", {"step_size": "huge"}, "step_size"),
        ("pgd", {"restarts": 0}, "restarts"),
        ("pgd", {"targets": "mine"}, "targets"),
        ("pgd", {"conditions": []}, "conditions"),
        ("pgd", {"models": ["tiny", "tiny"]}, "models"),
        ("pgd-20", {"threat": {"norm": "Linf", "eps": 8}}, "threat"),
        ("pgd-20", {"threat": {"norm": "L0", "eps": 5}}, "threat"),
        ("pgd-20", {"threat": {"norm": "L2"}}, "threat.eps"),
        ("pgd-20", {"threat": {"norm": "L2", "eps": 1e308}}, "threat.eps"),
        ("pgd", {"norm": "L2", "eps": [1e308]}, "eps.0"),
        ("curve", {"threat": {"norm": "L2", "eps": 1}}, "threat"),
        ("rotation-flip", {"eps": ["8/255"]}, "eps"),
        ("rotation-flip", {"images": 34}, "images"),
        ("rotation-flip", {"models": ["tiny", "tiny"]}, "models"),
        ("rotation-flip", {"models": ["nobody"]}, "models"),
    ],
    ids=str,
)
def test_the_short_routes_refuse_as_clearly(http: httpx.Client, path: str, fields: dict[str, Any], field: str) -> None:
    before = ids(http.get(URL).json())
    found = problem(http.post(f"{URL}/{path}", json=body(**fields)), 422)
    named = [each for each in found["errors"] if each["field"] == field]
    assert named, found["errors"]
    assert all("ThreatModel" not in (each["received"] or "") for each in named)
    assert ids(http.get(URL).json()) == before
