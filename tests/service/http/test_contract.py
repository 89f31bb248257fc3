"""The description of the API is true: of good requests, of random ones, of methods; CONTRACT_EXAMPLES tries more at random."""

import base64
import json
import os
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from safetensors.torch import save
from schemathesis import Case, GenerationMode
from schemathesis.schemas import APIOperation, BaseSchema
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.datastructures import State
from torch import nn

import evaluation
from evaluation import Catalog
from evaluation.spec import NAME_PATTERN
from service.http.bodies.picture_uploads import media_type
from service.http.formats import ReportFormat
from service.jobs.dispatcher import Dispatcher
from service.jobs.store import Store
from service.settings import Settings
from tests.conftest import CLASSES, TINY_OPTIONS
from tests.server import Server, serving
from tests.service.http.asked import FLIP, body, problem, submitted, watch
from tests.service.jobs.dispatching import Threads
from tests.service.kserve.requests import ELEMENT, binary_request, json_request, with_parts
from tests.service.pictures import DISC

EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", "4"))
PARTS = 4
EXPLAINED = "san_mini_pairwise.fashion_mnist"
DATASETS = "/v1/datasets/"
REMOVES_MODEL = "DELETE /v1/models/{name}"
CLEAN = {"conditions": [{"kind": "clean"}]}
METHODS = {"GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE"}
PATTERNS = {"name": NAME_PATTERN, "version": "[A-Za-z0-9]{1,32}", "evaluation_id": "[0-9a-f]{16}"}
EXCLUDED = [positive_data_acceptance]
"""No schema says which names there are, what a picture is, and what fits together."""
FAILURES = ("501", "503", "504")
"""What a server error may be: a format that is not installed, a model that is not loaded, a wait that is over."""

Operation = APIOperation[Any, Any, Any, Any]

schemathesis.openapi.media_type("image/*", st.sampled_from([DISC, DISC[:60], b"no picture"]))


@pytest.fixture(scope="module")
def own(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that computes nothing more once it has computed one evaluation."""
    changed = Settings(
        data_dir=tmp_path_factory.mktemp("contract"),
        model_dirs=catalog.model_folders,
        dataset_dirs=catalog.dataset_folders,
        devices=("cpu",),
        max_body_bytes=2**20,
        max_images=4,
    )
    with serving(changed) as running:
        running.service.dispatcher.stop()
        running.app.state.done = submitted(running.http, models=["tiny", "twin"], **CLEAN)["id"]
        _compute(running, catalog)
        running.app.state.failed = submitted(running.http, models=["twin"], conditions=[FLIP])["id"]
        _fail(running.service.store)
        running.app.state.waiting = submitted(running.http, conditions=[FLIP])["id"]
        yield running


def _compute(running: Server, catalog: Catalog) -> None:
    """Compute what was submitted here, where no process has to start for it."""
    with Threads() as threads:
        dispatcher = Dispatcher(running.service.store, catalog, lambda: {"cpu": threads})
        dispatcher.start()
        watch(running.http, {"links": {"events": f"/v1/evaluations/{running.app.state.done}/events"}})
        dispatcher.stop()


def _fail(store: Store) -> None:
    """Fail the shard that waits, as often as it is tried."""
    while claimed := store.claim():
        store.fail(claimed.id, "out of memory")


@pytest.fixture(scope="module")
def schema(own: Server) -> BaseSchema:
    loaded = schemathesis.openapi.from_dict(own.app.openapi())
    checked = loaded.config.checks.not_a_server_error
    checked.expected_statuses = [*checked.expected_statuses, *FAILURES]
    refused = loaded.config.checks.negative_data_rejection
    refused.expected_statuses = [*refused.expected_statuses, "413"]  # a form with more fields than the schema has
    names = {"version": "1", "evaluation_id": own.app.state.done}

    def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        """Let names that there might be become those that there are; nothing is removed."""
        if context.operation.method == "delete":
            return path_parameters
        there = names | {"name": "shapes" if context.operation.path.startswith(DATASETS) else "tiny"}
        return path_parameters and {
            key: there.get(key, value) if re.fullmatch(PATTERNS.get(key, ""), str(value)) else value
            for key, value in path_parameters.items()
        }

    def map_body(_context: Any, sent: Any) -> Any:
        """Let good names in evaluations become those of models and data that there are."""
        if not isinstance(sent, dict) or not _has_good_names(sent):
            return sent
        return sent | {"models": ["tiny"], "dataset": "shapes"}

    loaded.hook(map_body)
    loaded.hook(map_path_parameters)
    return loaded


def _has_good_names(sent: dict[str, Any]) -> bool:
    models, dataset = sent.get("models"), sent.get("dataset")
    return isinstance(models, list) and bool(models) and all(map(_is_good_name, [*models, dataset]))


def _is_good_name(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(NAME_PATTERN, value) is not None


def operations(schema: BaseSchema) -> list[Operation]:
    return [each.ok() for each in schema.get_all_operations()]


def good(own: Server, network: nn.Module, archive: Path) -> dict[str, list[dict[str, Any]]]:
    """Requests that are answered with success, in every content type that an operation takes; others need nothing."""
    checkpoint = save(network.state_dict())
    placed = own.service.settings.data_dir / "models" / "placed.safetensors"
    placed.parent.mkdir(exist_ok=True)
    placed.write_bytes(checkpoint)
    card = {"classes": CLASSES, "options": TINY_OPTIONS}
    new = {"path": placed.name, "name": "other", "card": card, "accept_likely": True}
    new_form = {
        "files": {"file": ("new.safetensors", checkpoint)},
        "data": {"card": json.dumps(card), "accept_likely": "true"},
    }
    form, raw = {"files": {"file": DISC}}, {"content": DISC, "headers": {"Content-Type": "image/png"}}
    encoded = base64.b64encode(DISC).decode()
    in_json = json_request() | {"parameters": {"binary_data_output": True}}
    binary = with_parts(binary_request(len(ELEMENT)), ELEMENT)
    binary["headers"]["Content-Type"] = "application/octet-stream"
    infer = [{"json": json_request()}, {"json": in_json}, binary]
    sides = {"evaluation": own.app.state.done, "model": "tiny", "other_model": "twin"}
    requests: dict[str, list[dict[str, Any]]] = {
        "POST /v1/models": [new_form, {"json": new}],
        "POST /v1/datasets": [{"files": {"file": ("new.zip", archive.read_bytes())}}],
        "POST /v1/models/{name}/predict": [form, raw, {"json": {"images": [encoded]}}],
        "POST /v1/models/{name}/classify": [raw, {"json": {"inputs": encoded}}],
        "POST /v1/models/{name}/explain": [form, raw, raw | {"params": {"format": "png"}}],
        "POST /v1/models/{name}/try": [form, raw | {"params": {"eps": "4/255", "steps": 2}}],
        "PUT /v1/models/{name}/serving": [{"json": {"top_k": 2}}],
        "POST /v2/models/{name}/infer": infer,
        "POST /v2/models/{name}/versions/{version}/infer": infer,
        "POST /v2/repository/index": [{"json": {"ready": True}}],
        "POST /v2/repository/models/{name}/load": [{"json": {}}],
        "POST /v2/repository/models/{name}/unload": [{"json": {}}],
        "PUT /v1/evaluations/{evaluation_id}/priority": [{"json": {"priority": "low"}}],
        "PUT /v1/evaluations/{evaluation_id}/limits": [{"json": {"max_devices": 2, "max_hours": 1.5}}, {"json": {}}],
        "PUT /v1/evaluations/{evaluation_id}/label": [{"json": {"name": "a name", "tags": ["tag"]}}],
        "GET /v1/evaluations/{evaluation_id}/report": [{"params": {"format": each}} for each in ReportFormat],
        "GET /v1/evaluations/{evaluation_id}/classes": [{"params": {"model": "tiny"}}],
        "GET /v1/evaluations/{evaluation_id}/calibration": [{"params": {"model": "tiny"}}],
        "GET /v1/comparisons": [{"params": sides}],
    }
    by_name = {"dry-run": CLEAN, "pgd": {}} | {each: {} for each in evaluation.preset_names()}
    evaluations = {f"POST /v1/evaluations/{name}": [{"json": body(images=1, **more)}] for name, more in by_name.items()}
    return requests | evaluations | {"POST /v1/evaluations": [{"json": body(**CLEAN)}]}


def parameters(operation: Operation, state: State) -> dict[str, str]:
    """Values for the path of an operation."""
    last = operation.path.rpartition("/")[2]
    evaluation = dict.fromkeys(("pause", "resume", "priority", "limits"), state.waiting) | {"retry": state.failed}
    name = EXPLAINED if operation.path.endswith("explain") else "new" if operation.label == REMOVES_MODEL else "tiny"
    name = "shapes" if operation.path.startswith(DATASETS) else name
    known = {"name": name, "version": "1", "evaluation_id": evaluation.get(last, state.done)}
    return {key: value for key, value in known.items() if f"{{{key}}}" in operation.path}


def test_good_requests_are_answered_as_described(
    own: Server, schema: BaseSchema, trained_network: nn.Module, shapes_zip: Path
) -> None:
    requests = good(own, trained_network, shapes_zip)
    for operation in sorted(operations(schema), key=lambda each: each.method == "delete"):
        if operation.path.endswith("/ready"):
            own.http.post("/v1/models/tiny/load").raise_for_status()
        path = parameters(operation, own.app.state)
        sent: set[str] = set()
        for request in requests.get(operation.label, [{}]):
            answer = own.http.request(operation.method, operation.path.format(**path), **request)
            answer.request.read()
            assert answer.is_success, (operation.label, answer.text)
            operation.Case(path_parameters=path).validate_response(answer)
            sent.add(media_type(answer.request.headers.get("content-type", "")).replace("image/png", "image/*"))
        assert sent == {each.media_type for each in operation.body} or {""}, operation.label


def test_other_methods_are_refused_with_those_that_there_are(own: Server, schema: BaseSchema) -> None:
    for path, described in own.app.openapi()["paths"].items():
        there = {*map(str.upper, described), *(["HEAD"] if "get" in described else [])}
        for method in METHODS - there:
            answer = own.http.request(method, path.format(name="tiny", version="1", evaluation_id=own.app.state.done))
            problem(answer, HTTPStatus.METHOD_NOT_ALLOWED)
            assert {*answer.headers["allow"].split(", ")} == there, path


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_random_requests_are_answered_as_described(
    own: Server, schema: BaseSchema, mode: GenerationMode, part: int
) -> None:
    for operation in operations(schema)[part::PARTS]:
        try:
            _try(operation, mode, own)
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, "what takes no parameters cannot be asked wrongly"
            assert not operation.body


def _try(operation: Operation, mode: GenerationMode, own: Server) -> None:
    @seed(0)
    @given(operation.as_strategy(mode))
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def answered_as_described(case: Case) -> None:
        case.call_and_validate(base_url=own.url, timeout=60, excluded_checks=EXCLUDED)

    answered_as_described()
