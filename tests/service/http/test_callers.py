"""Each API key sees and cancels its own evaluations, an admin key all; what they may cost is limited before they run."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from tests.server import Server, serving
from tests.service.pictures import refusal

SLOW: dict[str, Any] = {
    "models": ["tiny"],
    "dataset": "shapes",
    "conditions": [
        {
            "kind": "adversarial",
            "threat": {"norm": "Linf", "eps": "8/255"},
            "attacks": [{"name": "pgd", "parameters": {"steps": 10_000}}],
        }
    ],
}


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Iterator[Server]:
    keys = {"api_keys": frozenset({"one", "two"}), "admin_keys": frozenset({"owner"}), "key_passes": 2_500_000}
    with serving(settings.model_copy(update=keys | {"data_dir": tmp_path / "data"})) as running:
        yield running


def key(name: str) -> dict[str, str]:
    return {"X-API-Key": name}


def listed(own: Server, name: str) -> list[str]:
    return [each["id"] for each in own.http.get("/v1/evaluations", headers=key(name)).json()["evaluations"]]


def test_a_key_sees_and_cancels_its_own_evaluations_and_an_admin_key_all(own: Server) -> None:
    mine = own.http.post("/v1/evaluations", json=SLOW, headers=key("one")).json()["id"]
    here = f"/v1/evaluations/{mine}"
    assert (listed(own, "one"), listed(own, "two"), listed(own, "owner")) == ([mine], [], [mine])
    for path in (here, f"{here}/report", f"{here}/events", f"/evaluations/{mine}"):
        refusal(own.http.get(path, headers=key("two")), 404)
    refusal(own.http.delete(here, headers=key("two")), 404)
    assert mine not in own.http.get("/", headers=key("two")).text
    both = {"evaluation": mine, "model": "tiny", "other_model": "tiny"}
    refusal(own.http.get("/v1/comparisons", params=both, headers=key("two")), 404)
    assert own.http.post("/v1/evaluations", json=SLOW, headers=key("two")).json()["id"] == mine
    assert listed(own, "two") == [mine], "it asked the same question"
    assert own.http.delete(here, headers=key("one")).json()["status"] in {"pending", "running"}, "another wants it"
    assert (listed(own, "one"), listed(own, "two")) == ([], [mine])
    assert own.http.delete(here, headers=key("owner")).json()["status"] == "cancelled"


def test_a_key_can_have_so_much_waiting(own: Server) -> None:
    for seed in range(2):
        assert own.http.post("/v1/evaluations", json=SLOW | {"seed": seed}, headers=key("one")).status_code == 202
    refused = own.http.post("/v1/evaluations", json=SLOW | {"seed": 2}, headers=key("one"))
    problem = refusal(refused, 429)
    assert "at most 2,500,000 are allowed; wait for some to finish" in problem["detail"]
    assert refused.headers["Retry-After"] == "60"
    assert own.http.post("/v1/evaluations", json=SLOW | {"seed": 2}, headers=key("two")).status_code == 202


def test_an_idempotency_key_is_its_callers_and_revives_nothing(own: Server) -> None:
    once = {"Idempotency-Key": "1"}
    mine = own.http.post("/v1/evaluations", json=SLOW, headers=key("one") | once).json()["id"]
    own.http.delete(f"/v1/evaluations/{mine}", headers=key("one"))
    again = own.http.post("/v1/evaluations", json=SLOW, headers=key("one") | once).json()
    assert (again["id"], again["status"]) == (mine, "cancelled")
    other = own.http.post("/v1/evaluations", json=SLOW | {"seed": 5}, headers=key("two") | once)
    assert other.status_code == 202, "the same key of another caller is another key"
    refusal(own.http.post("/v1/evaluations", json=SLOW | {"seed": 6}, headers=key("one") | once), 422)
    assert own.http.post("/v1/evaluations", json=SLOW, headers=key("one")).json()["status"] != "cancelled"


@pytest.mark.parametrize(
    ("attack", "images", "reason"),
    [
        (
            {"name": "pgd", "parameters": {"steps": 10_000}, "restarts": 1_000},
            1,
            r"may take 30,0.*,.* passes through the model per image, at most 200,000 are allowed",
        ),
        (
            {"name": "pgd", "parameters": {"steps": 10_000}, "restarts": 6},
            33,
            r"passes through its models, at most 5,000,000 are allowed",
        ),
    ],
    ids=["per image", "in all"],
)
def test_what_would_hold_the_devices_too_long_is_refused(
    settings: Settings, tmp_path: Path, attack: dict[str, Any], images: int, reason: str
) -> None:
    limits = {"evaluation_passes": 5_000_000, "data_dir": tmp_path / "data"}
    body = SLOW | {"images": images, "conditions": [SLOW["conditions"][0] | {"attacks": [attack]}]}
    with serving(settings.model_copy(update=limits)) as own:
        problem = refusal(own.http.post("/v1/evaluations", json=body), 422)
        assert problem["errors"][0]["field"] == "conditions"
        assert re.search(reason, problem["detail"])
        assert own.http.get("/v1/evaluations").json()["evaluations"] == []
