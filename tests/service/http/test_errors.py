"""One shape for every error, on every route."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter

from attacks import AttackError
from common import UnknownNameError
from common.pictures import PictureError
from evaluation import ComparisonError, DatasetError, FormatError
from evaluation.catalog import DatasetTakenError
from models import CheckpointError, GraphError, NameTakenError, NoAttentionError
from service.http import problems
from service.http.problems import LONGEST_ECHO, Problem, field_errors
from service.jobs.queries import DamagedEvaluationError, KeyReusedError
from service.jobs.queue import SharedEvaluationError, WrongStatusError
from service.jobs.removal.requests import InUseError
from service.kserve import tensors
from service.kserve.tensors import TensorError, TooLargeError
from service.serving.errors import KeyLimitError, NotLoadedError, OverloadedError, StuckError, TooLateError
from service.settings import Settings
from service.sql.database import StoreError
from tests.server import Server, serving

ERRORS: dict[str, tuple[Exception, int]] = {
    "unexpected": (RuntimeError("a secret"), 500),
    "attack": (AttackError("no such step"), 422),
    "checkpoint": (CheckpointError("a broken file"), 422),
    "dataset": (DatasetError("no pictures"), 422),
    "picture": (PictureError("not a picture"), 422),
    "name": (UnknownNameError("model", "unknown model 'x'"), 404),
    "in use": (InUseError("an evaluation needs it"), 409),
    "wrong status": (WrongStatusError("it is done"), 409),
    "shared": (SharedEvaluationError("others asked for it too"), 403),
    "taken": (NameTakenError("there is one"), 409),
    "taken data set": (DatasetTakenError("x"), 409),
    "comparison": (ComparisonError("other images"), 409),
    "reused key": (KeyReusedError("another request"), 422),
    "no database": (StoreError("the database is locked"), 503),
    "damaged": (DamagedEvaluationError("its plan cannot be read"), 500),
    "no attention": (NoAttentionError("no places"), 422),
    "key limit": (KeyLimitError("2 pictures are waiting", retry_after_s=2), 429),
    "format": (FormatError("no pyarrow"), 501),
    "overload": (OverloadedError("9 pictures are waiting", retry_after_s=7), 503),
    "not loaded": (NotLoadedError("not in memory"), 503),
    "stuck": (StuckError("every thread hangs"), 503),
    "graph": (GraphError("it crashed"), 422),
    "late": (TooLateError("no prediction"), 504),
    "tensor": (TensorError("no datatype"), 422),
    "large tensor": (TooLargeError("9 bytes"), 413),
}


def broken_routes() -> APIRouter:
    router = APIRouter(prefix="/broken")

    @router.get("/{case}")
    def fail(case: str) -> None:
        raise ERRORS[case][0]

    return router


@pytest.fixture(scope="module")
def broken(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with routes that fail."""
    changed = {"data_dir": tmp_path_factory.mktemp("broken")}
    with serving(settings.model_copy(update=changed)) as running:
        running.app.include_router(broken_routes())
        yield running


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert Problem.model_validate(found).model_dump() == found
    assert found["error"] == found["detail"]
    assert found["status"] == status
    assert found["title"]
    return found


def test_every_error_that_has_a_status_is_tried() -> None:
    tried = {type(error) for error, _ in ERRORS.values()}
    assert tried - {RuntimeError} == {*problems.STATUSES, *tensors.STATUSES}


@pytest.mark.parametrize("case", ERRORS)
def test_every_exception_becomes_a_problem(broken: Server, case: str) -> None:
    error, status = ERRORS[case]
    answer = broken.http.get(f"/broken/{case}")
    found = problem(answer, status)
    assert answer.headers.get("Retry-After") == (
        str(error.retry_after_s) if isinstance(error, OverloadedError) else None
    )
    if type(error) is RuntimeError:
        assert found["detail"] == "unexpected RuntimeError; the server's log has the details"
        assert "secret" not in str(found)
    else:
        assert found["detail"] == str(error)
        assert [each["field"] for each in found["errors"]] == [
            problems.FIELDS[type(error)] for kind in problems.FIELDS if isinstance(error, kind)
        ]
    assert httpx.get(f"{broken.url}/healthz").status_code == 200


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1", "/v1/models/tiny/nothing", "/static/nothing.css", "/static/../app.py"]
)
def test_an_unknown_path_is_a_problem(http: httpx.Client, path: str) -> None:
    problem(http.get(path), 404)


def test_every_route_refuses_other_methods_with_a_problem(server: Server) -> None:
    for path, methods in server.app.openapi()["paths"].items():
        answer = server.http.request("PATCH", path.format(name="tiny", version="1", evaluation_id="0" * 16))
        problem(answer, 405)
        assert {each.strip().lower() for each in answer.headers["allow"].split(",")} & set(methods)


def test_every_route_with_a_parameter_refuses_a_bad_one_with_a_problem(server: Server) -> None:
    tried = 0
    for path, methods in server.app.openapi()["paths"].items():
        if "{" not in path:
            continue
        for method in methods:
            answer = server.http.request(method, path.format(name="-", version="-", evaluation_id="-"), content=b"")
            problem(answer, 422)
            tried += 1
    assert tried >= 6


def test_every_route_describes_its_errors_as_problems(server: Server) -> None:
    api = server.app.openapi()
    assert "FieldError" in api["components"]["schemas"]
    for path, methods in api["paths"].items():
        for method, route in methods.items():
            for kind in ("4XX", "5XX"):
                described = route["responses"][kind]["content"]
                assert set(described) == {"application/problem+json"}, f"{method} {path}"
                assert set(described["application/problem+json"]["schema"]["properties"]) == set(Problem.model_fields)
            assert "422" not in route["responses"], f"{method} {path} describes FastAPI's own shape"


def test_a_received_value_is_repeated_but_not_without_end() -> None:
    error = {"loc": ("body", "models", 0), "msg": "Value error, wrong", "input": "x" * 10_000, "type": "value_error"}
    (found,) = field_errors([error])
    assert (found.field, found.message, str(found)) == ("models.0", "wrong", "models.0: wrong")
    assert found.received is not None
    assert len(found.received) == LONGEST_ECHO


def test_a_list_is_not_blamed_for_the_items_it_lost() -> None:
    inside = {"loc": ("body", "eps", 0), "msg": "negative", "input": -1, "type": "greater_than_equal"}
    emptied = {"loc": ("body", "eps"), "msg": "too short", "input": [-1], "type": "too_short"}
    assert [each.field for each in field_errors([inside, emptied])] == ["eps.0"]
    assert [each.field for each in field_errors([emptied])] == ["eps"]
