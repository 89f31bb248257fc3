"""Settings come from arguments and the environment; beyond this machine keys are needed."""

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from pydantic import ValidationError

import evaluation
from common.cores import cores
from service.accounts.callers import Callers
from service.http.middleware import api_keys
from service.preflight import require_startable
from service.settings import Settings
from tests.server import Server, serving

KEYS = frozenset({"first-key", "second~key"})


def test_every_setting_has_a_default_and_a_description() -> None:
    settings = Settings()
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert getattr(settings, name) == field.default


def test_the_environment_is_read_and_an_argument_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WITHSTAND_PORT", "9000")
    monkeypatch.setenv("WITHSTAND_MODEL_DIRS", '["/a", "/b"]')
    monkeypatch.setenv("WITHSTAND_API_KEYS", '["k"]')
    monkeypatch.setenv("WITHSTAND_SOMETHING_ELSE", "ignored")
    settings = Settings()
    assert (settings.port, settings.model_dirs, settings.api_keys) == (9000, (Path("/a"), Path("/b")), {"k"})
    assert Settings(port=1).port == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "65536"),
        ("PORT", "many"),
        ("MAX_PIXELS", "0"),
        ("PREDICT_TIMEOUT_S", "0"),
        ("QUEUE_IMAGES", "-1"),
        ("QUEUE_IMAGES", "63"),  # fewer than one request may bring
    ],
)
def test_a_value_that_makes_no_sense_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"WITHSTAND_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_on_this_machine_no_keys_are_needed(host: str) -> None:
    assert not Callers(Settings(host=host)).are_needed


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.example.org", ""])
def test_beyond_this_machine_keys_are_needed(host: str, tmp_path: Path) -> None:
    settings = Settings(host=host, data_dir=tmp_path, admin_keys=frozenset({"k"}))
    with pytest.raises(ValueError, match=f"listening on {host} needs API keys: .* or set WITHSTAND_API_KEYS"):
        require_startable(settings)
    assert Callers(settings).are_needed, "however it is started"


@pytest.mark.parametrize("key", ["", " ", "two words", "ké"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(ValidationError, match="api_keys"):
        Settings(api_keys=frozenset({key}))


@pytest.fixture(scope="module")
def guarded(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for a key."""
    changed = {"api_keys": KEYS, "data_dir": tmp_path_factory.mktemp("guarded")}
    with pytest.MonkeyPatch.context() as patch, serving(settings.model_copy(update=changed)) as running:
        patch.setattr(api_keys, "ALLOWED_FAILURES", 10**6)
        yield running


GUARDED = [
    ("GET", "/metrics"),
    ("GET", "/"),
    ("GET", "/queue"),
    ("GET", "/new"),
    ("GET", "/evaluations"),
    ("GET", "/compare"),
    ("GET", "/playground"),
    ("GET", "/models"),
    ("GET", "/models/tiny"),
    ("GET", "/models/tiny/attention.png?dataset=shapes"),
    ("GET", "/datasets"),
    ("GET", "/datasets/shapes"),
    ("GET", "/datasets/shapes/classes/0.png"),
    ("GET", "/datasets/shapes/images/0.png"),
    ("GET", "/evaluations/0123456789abcdef"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/tiny"),
    ("DELETE", "/v1/models/tiny"),
    ("POST", "/v1/models/tiny/predict"),
    ("POST", "/v1/models/tiny/classify"),
    ("GET", "/v1/models/tiny/serving"),
    ("PUT", "/v1/models/tiny/serving"),
    ("POST", "/v1/models/tiny/load"),
    ("POST", "/v1/models/tiny/unload"),
    ("GET", "/v1/models/tiny/ready"),
    ("GET", "/v1/datasets"),
    ("POST", "/v1/datasets"),
    ("GET", "/v1/datasets/tiny"),
    ("GET", "/v1/presets"),
    ("GET", "/v1/attacks"),
    ("GET", "/v1/architectures"),
    ("GET", "/v1/comparisons"),
    ("GET", "/v1/evaluations"),
    ("POST", "/v1/models"),
    ("POST", "/v1/models/tiny/explain"),
    ("POST", "/v1/models/tiny/try"),
    ("POST", "/v1/evaluations"),
    ("POST", "/v1/evaluations/dry-run"),
    ("POST", "/v1/evaluations/pgd"),
    *(("POST", f"/v1/evaluations/{name}") for name in evaluation.preset_names()),
    ("GET", "/v1/evaluations/0123456789abcdef"),
    ("DELETE", "/v1/evaluations/0123456789abcdef"),
    ("DELETE", "/v1/evaluations/0123456789abcdef?results=true"),
    ("GET", "/v1/evaluations/0123456789abcdef/events"),
    ("GET", "/v1/evaluations/0123456789abcdef/report"),
    *(("GET", f"/v1/evaluations/0123456789abcdef/{what}") for what in ("classes", "calibration")),
    *(("PUT", f"/v1/evaluations/0123456789abcdef/{what}") for what in ("priority", "limits", "label")),
    *(("POST", f"/v1/evaluations/0123456789abcdef/{what}") for what in ("pause", "resume", "retry")),
    *(("GET", f"/v1/{what}") for what in ("queue", "devices", "failures")),
    *(("POST", f"/v1/queue/{what}") for what in ("pause", "resume")),
    *(
        (method, f"/v2/models/tiny{version}{what}")
        for version in ("", "/versions/1")
        for method, what in (("GET", ""), ("GET", "/ready"), ("GET", "/config"), ("GET", "/stats"), ("POST", "/infer"))
    ),
    ("GET", "/v2/models/stats"),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/tiny/load"),
    ("POST", "/v2/repository/models/tiny/unload"),
]

OPEN = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
}
"""Probes, which ask whether the service is there and how it does, and send no key."""


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "wrong"},
        {"X-API-Key": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic first-key"},
        {"Authorization": "Basic " + b64encode(b"first-key:wrong").decode()},
        {"Authorization": "Basic " + b64encode(b"\xff:\xff").decode()},
    ],
    ids=str,
)
def test_without_a_key_nothing_is_answered(guarded: Server, method: str, path: str, headers: dict[str, str]) -> None:
    answer = guarded.http.request(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers.get_list("www-authenticate") == ["Bearer", 'Basic realm="withstand"']
    assert answer.headers["content-type"] == "application/problem+json"
    assert "X-API-Key" in answer.json()["detail"]


def test_the_list_of_guarded_routes_is_complete(guarded: Server) -> None:
    described = {
        (method.upper(), path.format(name="tiny", version="1", evaluation_id="0123456789abcdef"))
        for path, methods in guarded.app.openapi()["paths"].items()
        for method in methods
    }
    assert described - set(GUARDED) == OPEN


@pytest.mark.parametrize("key", sorted(KEYS))
def test_a_key_is_accepted_in_either_header(guarded: Server, key: str) -> None:
    for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}, {"Authorization": f"bearer {key}"}):
        assert guarded.http.get("/v1/models", headers=headers).status_code == 200


def test_a_browser_sends_the_key_as_a_password(guarded: Server) -> None:
    page = guarded.http.get("/", auth=("anybody", "first-key"))
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")


def test_probes_need_no_key(guarded: Server) -> None:
    assert guarded.http.get("/healthz").json() == {"status": "alive"}
    assert guarded.http.get("/readyz").json()["status"] == "ready"
    for method, path in OPEN:
        assert guarded.http.request(method, path).status_code == 200, path


def test_without_keys_none_is_asked_for(http: httpx.Client) -> None:
    assert http.get("/v1/models").status_code == 200
    assert http.get("/v1/models", headers={"Authorization": "Bearer whatever"}).status_code == 200


@pytest.mark.parametrize(
    ("given", "processes"),
    [
        ({}, 1),
        ({"devices": ("cpu:0", "cpu:1")}, 1),
        ({"devices": ("cuda:0",)}, max(1, cores() // 3)),
        ({"devices": ("cuda:0",), "workers": 2}, 2),
    ],
)
def test_a_gpu_gets_more_processes_than_a_cpu(given: dict[str, Any], processes: int) -> None:
    if not given and torch.cuda.is_available():
        processes = max(1, cores() // 3)
    assert Settings(**given).processes == processes


def test_the_number_of_processes_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, workers in (("auto", "auto"), ("3", 3)):
        monkeypatch.setenv("WITHSTAND_WORKERS", text)
        assert Settings().workers == workers
    monkeypatch.setenv("WITHSTAND_WORKERS", "0")
    with pytest.raises(ValidationError, match="workers"):
        Settings()
