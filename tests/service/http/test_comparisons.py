"""Comparisons over HTTP."""

import httpx

from evaluation import Comparison
from tests.service.http.asked import PGD, finished

URL = "/v1/comparisons"


def test_two_models_of_one_evaluation(http: httpx.Client) -> None:
    state = finished(http, models=["tiny", "twin"], conditions=[{"kind": "clean"}, PGD])
    asked = {"evaluation": state["id"], "model": "tiny", "other_model": "twin"}
    found = Comparison.model_validate(http.get(URL, params=asked).raise_for_status().json())
    assert [each.title for each in found.conditions] == [
        each["title"] for each in state["report"]["models"][0]["conditions"]
    ]
    for each in found.conditions:  # twins agree on every image
        assert (each.only_first, each.only_second, each.p, each.difference) == (0, 0, 1, 0)
        assert each.both + each.neither == each.n == state["report"]["plan"]["images"]


def test_what_cannot_be_compared_says_why(http: httpx.Client) -> None:
    first, second = (finished(http, seed=seed, images=6, conditions=[{"kind": "clean"}]) for seed in (0, 1))
    asked = {"evaluation": first["id"], "model": "tiny", "other_model": "tiny", "other_evaluation": second["id"]}
    answer = http.get(URL, params=asked)
    assert answer.status_code == 409
    assert "seed 0 and 1" in answer.json()["detail"]
    missing = http.get(URL, params=asked | {"other_model": "twin"})
    assert missing.status_code == 409
    assert "has no model 'twin', it has tiny" in missing.json()["detail"]
    assert http.get(URL, params=asked | {"evaluation": "0123456789abcdef"}).status_code == 404
    assert http.get(URL, params={"evaluation": "x"}).status_code == 422
