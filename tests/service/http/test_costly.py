"""One attack that takes hours for an image: it is watched and ended as any other."""

import time

import httpx
import pytest

from tests.server import Server, until

CANCELLED_S = 5.0
"""Longest wait until a device is free again: half a second until the dispatcher looks, and the rest for a busy machine."""


def costly(steps: int = 10_000, restarts: int = 6) -> dict[str, object]:
    """An attack that flips nothing within its budget, so that it takes all its passes, which are as many as are allowed."""
    attack = {"name": "pgd", "parameters": {"steps": steps}, "restarts": restarts}
    return {"kind": "adversarial", "threat": {"norm": "Linf", "eps": 1e-6}, "attacks": [attack]}


def device(http: httpx.Client) -> dict[str, object]:
    (found,) = http.get("/v1/devices").json()["devices"]
    return found


@pytest.mark.timeout(120)
def test_an_attack_of_hours_shows_its_progress_within_an_image_and_ends_when_it_is_cancelled(fresh: Server) -> None:
    http = fresh.http
    spec = {"models": ["tiny"], "dataset": "shapes", "images": 5, "conditions": [costly()]}
    submitted = http.post("/v1/evaluations", json=spec).json()
    link = submitted["links"]["self"]
    assert submitted["progress"]["shards_total"] == 5

    def progress() -> dict[str, float]:
        return http.get(link).json()["progress"]

    until(lambda: progress()["passes_done"])
    first = progress()
    until(lambda: progress()["passes_done"] > first["passes_done"])
    then = progress()
    assert (then["images_done"], then["shards_done"]) == (0, 0)
    assert then["passes_done"] < then["passes_total"] == 5 * 180_007
    assert 0 < device(http)["running"]["share_done"] < 1  # type: ignore[index]
    assert http.delete(link).json()["status"] == "cancelled"
    cancelled_at = time.monotonic()
    until(lambda: device(http)["state"] == "idle")
    again = http.post("/v1/evaluations", json=spec | {"conditions": [{"kind": "clean"}]}).json()
    until(lambda: http.get(again["links"]["self"]).json()["status"] == "done")
    print(f"{time.monotonic() - cancelled_at:.1f} s from the cancellation to another evaluation's end")
    assert device(http)["state"] == "idle"
