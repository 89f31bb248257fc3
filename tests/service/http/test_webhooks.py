"""Webhooks that are asked for over HTTP, and what comes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from cli.failures import ending_of
from evaluation import EvaluationSpec
from service.http.webhooks import MAX_BYTES, MAX_ERROR, describe
from service.jobs.evaluations import Damaged
from service.jobs.reports.counted import Reports
from service.jobs.store import Store
from service.settings import Settings
from tests.server import DEADLINE_S, Server, a_plan, serving, until
from tests.service.http.asked import FLIP, PGD, URL, body, problem, submitted, watch
from tests.service.receiver import SECRET, Receiver, receiving


@pytest.fixture(scope="module")
def calling(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server that calls webhooks on this machine."""
    changed = {"webhook_hosts": frozenset({"localhost"}), "webhook_secret": SECRET}
    with serving(settings.model_copy(update=changed | {"data_dir": tmp_path_factory.mktemp("calling")})) as running:
        yield running.http


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as opened:
        yield opened


def at(receiver: Receiver, url: str = URL) -> str:
    return str(httpx.URL(url, params={"webhook": receiver.url}))


def test_the_end_of_an_evaluation_is_sent_with_its_scores(calling: httpx.Client, receiver: Receiver) -> None:
    fields = {"models": ["tiny", "twin"], "conditions": [{"kind": "clean"}, FLIP, PGD]}
    state = submitted(calling, url=at(receiver), **fields)
    until(lambda: receiver.calls)
    (sent,) = receiver.bodies()
    read = calling.get(state["links"]["self"]).json()
    assert {name: sent[name] for name in ("type", "id", "status", "error", "links", "models_left_out")} == {
        "type": "evaluation.done",
        "id": state["id"],
        "status": "done",
        "error": None,
        "links": state["links"],
        "models_left_out": 0,
    }
    for headline, model in zip(sent["models"], read["report"]["models"], strict=True):
        scores = [each["robust_accuracy"] or each["accuracy"] for each in model["conditions"]]
        assert headline == {
            "model": model["model"],
            "grade": model["grade"],
            "clean_accuracy": model["conditions"][0]["clean_accuracy"],
            "lowest": min(scores, key=lambda score: score["value"]),
        }


def test_it_is_no_part_of_the_question(calling: httpx.Client, receiver: Receiver) -> None:
    first = submitted(calling, conditions=[FLIP])
    watch(calling, first)
    assert submitted(calling, url=at(receiver), conditions=[FLIP])["id"] == first["id"]
    until(lambda: receiver.calls)
    assert receiver.bodies()[0]["id"] == first["id"]


@pytest.mark.parametrize("route", ["/v1/evaluations/pgd", "/v1/evaluations/rotation-flip"])
def test_every_route_that_submits_takes_one(calling: httpx.Client, receiver: Receiver, route: str) -> None:
    answer = calling.post(at(receiver, route), json=body(seed=len(route)))
    assert answer.status_code == 202, answer.text
    until(lambda: receiver.calls, DEADLINE_S)
    assert receiver.bodies()[0]["id"] == answer.json()["id"]


def test_an_idempotency_key_belongs_to_one_webhook(calling: httpx.Client, receiver: Receiver) -> None:
    once = {"Idempotency-Key": "webhook"}
    for _ in range(2):
        assert calling.post(at(receiver), json=body(seed=7), headers=once).status_code == 202
    problem(calling.post(URL, json=body(seed=7), headers=once), 422)
    until(lambda: receiver.calls)


@pytest.mark.parametrize("url", ["https://example.org/", "http://10.0.0.1/", "no url"])
def test_hosts_that_are_not_listed_are_refused_at_once(calling: httpx.Client, url: str) -> None:
    found = problem(calling.post(URL, params={"webhook": url}, json=body()), 422)
    assert found["errors"][0]["field"] == "webhook"
    assert "WITHSTAND_WEBHOOK_HOSTS" in found["detail"]


def test_webhooks_are_off_by_default(server: Server) -> None:
    found = problem(server.http.post(URL, params={"webhook": "http://localhost/"}, json=body()), 422)
    assert found["detail"] == "webhooks are off; WITHSTAND_WEBHOOK_HOSTS turns them on"


@pytest.mark.parametrize("secret", [None, "", "whsec_", "whsec_c2hvcnQ=", SECRET.removeprefix("whsec_"), "whsec_%%%%"])
def test_webhooks_need_a_secret_that_no_error_repeats(secret: str | None) -> None:
    with pytest.raises(ValidationError) as raised:
        Settings(webhook_hosts=frozenset({"localhost"}), webhook_secret=secret)
    message, _ = ending_of(raised.value) or ("", 0)
    assert "webhooks need WITHSTAND_WEBHOOK_SECRET, whsec_ and 24 to 64 random bytes" in message
    for shown in (message, str(raised.value), repr(Settings(webhook_secret=secret))):
        assert "secret'" not in shown
        assert not secret or len(secret) < 10 or secret not in shown


@pytest.mark.parametrize("host", ["*", "Example.org", "https://example.org", "a b", ""])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ValidationError, match="webhook_hosts"):
        Settings(webhook_hosts=frozenset({host}), webhook_secret=SECRET)


def test_a_body_has_at_most_three_kilobytes(tmp_path: Path) -> None:
    names = tuple(f"model{number:02}{'x' * 40}" for number in range(40))
    plan = a_plan(spec=EvaluationSpec(models=names, dataset="shapes"))
    plan = plan.model_copy(update={"model_sha256": dict.fromkeys(names, "e" * 64)})
    store = Store.at(tmp_path / "withstand.db")
    store.submit(plan)
    store.cancel(plan.id)
    found = store.evaluation(plan.id)
    assert found is not None
    failed = replace(found, progress=replace(found.progress, error="€" * 10_000))
    text = describe(failed, Reports(store), "/withstand")
    unreadable = describe(Damaged(plan.id, 1, "unreadable"), Reports(store), "")
    store.close()
    sent = json.loads(text)
    assert MAX_BYTES - 300 < len(text.encode()) <= MAX_BYTES
    assert sent["error"] == "€" * MAX_ERROR
    assert sent["links"]["page"] == f"/withstand/evaluations/{plan.id}"
    assert [each["model"] for each in sent["models"]] == [*names[: len(sent["models"])]]
    assert sent["models_left_out"] == 40 - len(sent["models"])
    assert json.loads(unreadable)["status"] == "failed"
