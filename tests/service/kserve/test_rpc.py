"""The open inference protocol over gRPC, spoken by its real client: what HTTP answers, and the errors that HTTP has."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, service_pb2, service_pb2_grpc
from tritonclient.http import InferenceServerClient as HttpClient
from tritonclient.http import InferInput as HttpInput
from tritonclient.utils import InferenceServerException

from evaluation import Catalog
from service.accounts.keys import Scope, create_key
from service.preflight import StartError, require_startable
from service.settings import Settings
from tests.conftest import CLASSES
from tests.server import Server, serving, until
from tests.service.held import Held
from tests.service.kserve.requests import logits_of, prepared
from tests.service.pictures import DISC, SQUARE, STRIPES
from tests.spans import SENT, TRACE, named

KEY = "a-key"


@contextmanager
def calling(settings: Settings, data_dir: Path, **changes: Any) -> Iterator[tuple[Server, InferenceServerClient]]:
    """A server of its own with gRPC, and the client of it."""
    with serving(settings.model_copy(update={"data_dir": data_dir, "grpc_port": 0} | changes)) as running:
        client = InferenceServerClient(f"127.0.0.1:{running.app.state.grpc_port}")
        yield running, client
        client.close()


@pytest.fixture(scope="module")
def both(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, InferenceServerClient]]:
    with calling(settings, tmp_path_factory.mktemp("rpc")) as running:
        yield running


@pytest.fixture
def client(both: tuple[Server, InferenceServerClient]) -> InferenceServerClient:
    return both[1]


@pytest.fixture
def http_client(both: tuple[Server, InferenceServerClient]) -> Iterator[HttpClient]:
    with HttpClient(both[0].url.removeprefix("http://")) as client:
        yield client


def image(*pictures: bytes, kind: Any = InferInput) -> Any:
    sent = kind("image", [len(pictures)], "BYTES")
    sent.set_data_from_numpy(np.array(pictures, dtype=object))
    return sent


def pixels(values: NDArray[np.float32], kind: Any = InferInput) -> Any:
    sent = kind("pixels", list(values.shape), "FP32")
    sent.set_data_from_numpy(values)
    return sent


def refused(client: InferenceServerClient, *sent: Any, model: str = "tiny", **more: Any) -> tuple[str, str]:
    """Code and message of an error."""
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, list(sent or [image(DISC)]), **more)
    return str(caught.value.status()).removeprefix("StatusCode."), str(caught.value.message())


def test_server_and_models_say_what_they_say_over_http(client: InferenceServerClient, http_client: HttpClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata(as_json=True) == http_client.get_server_metadata()
    told = client.get_model_metadata("tiny", as_json=True)
    for each in (*told["inputs"], *told["outputs"]):
        each["shape"] = [int(side) for side in each["shape"]]  # JSON of protobuf has 64 bits as text
    assert told == http_client.get_model_metadata("tiny")
    assert client.get_model_metadata("tiny", "1", as_json=True)["name"] == "tiny"


def test_a_model_is_ready_once_it_is_in_memory(both: tuple[Server, InferenceServerClient]) -> None:
    server, client = both
    server.http.post("/v2/repository/models/twin/unload")
    assert not client.is_model_ready("twin")
    client.infer("twin", [image(DISC)])
    assert client.is_model_ready("twin")
    assert client.is_model_ready("twin", "1")
    with pytest.raises(InferenceServerException, match="NOT_FOUND"):
        client.is_model_ready("twin", "2")


def test_pictures_become_logits(client: InferenceServerClient, catalog: Catalog) -> None:
    answer = client.infer("tiny", [image(STRIPES, DISC)], request_id="mine", compression_algorithm="gzip")
    logits = answer.as_numpy("logits")
    assert (logits.dtype, logits.shape) == (np.float32, (2, 3))
    assert logits == pytest.approx(logits_of(catalog, prepared(catalog, STRIPES, DISC)), abs=1e-4)
    response = answer.get_response()
    assert (response.model_name, response.model_version, response.id) == ("tiny", "1", "mine")
    assert [each.name for each in response.outputs] == ["logits"]


def test_pixels_become_what_is_asked_for(client: InferenceServerClient, catalog: Catalog) -> None:
    images = prepared(catalog, DISC, SQUARE, STRIPES)
    wanted = [InferRequestedOutput("probabilities", class_count=1), InferRequestedOutput("logits")]
    answer = client.infer("tiny", [pixels(images.numpy())], model_version="1", outputs=wanted)
    assert answer.as_numpy("logits") == pytest.approx(logits_of(catalog, images), abs=1e-4)
    named = [each.decode().split(":")[2] for each in answer.as_numpy("probabilities").flatten()]
    assert named == list(CLASSES)


@pytest.mark.parametrize("name", ["image", "pixels"])
def test_tensors_may_have_their_elements_in_the_message(
    both: tuple[Server, InferenceServerClient], catalog: Catalog, name: str
) -> None:
    images = prepared(catalog, DISC)
    request = service_pb2.ModelInferRequest(model_name="tiny")
    if name == "image":
        sent = request.inputs.add(name=name, datatype="BYTES", shape=[1])
        sent.contents.bytes_contents.append(DISC)
    else:
        sent = request.inputs.add(name=name, datatype="FP32", shape=images.shape)
        sent.contents.fp32_contents.extend(images.flatten().tolist())
    with grpc.insecure_channel(f"127.0.0.1:{both[0].app.state.grpc_port}") as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer, trailers = call.ModelInfer.with_call(request, metadata=[("x-request-id", "mine")])
        with pytest.raises(grpc.RpcError) as caught:
            call.ModelStatistics(service_pb2.ModelStatisticsRequest())
    logits = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(1, 3)
    assert logits == pytest.approx(logits_of(catalog, images), abs=1e-4)
    told = dict(trailers.trailing_metadata())
    assert told["x-request-id"] == "mine"
    assert told["server-timing"].startswith("queue;dur=")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


ZEROS = np.zeros((1, 3, 32, 32), np.float32)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda kind: image(b"no picture", kind=kind), "INVALID_ARGUMENT"),
        (lambda kind: image(*[DISC] * 5, kind=kind), "RESOURCE_EXHAUSTED"),
        (lambda kind: pixels(ZEROS - 1, kind), "INVALID_ARGUMENT"),
        (lambda kind: pixels(ZEROS[:, :, 1:], kind), "INVALID_ARGUMENT"),
    ],
    ids=["no picture", "too many pictures", "pixels out of range", "wrong shape"],
)
def test_what_is_refused_is_refused_with_the_words_of_http(
    client: InferenceServerClient, http_client: HttpClient, make: Any, code: str
) -> None:
    with pytest.raises(InferenceServerException) as over_http:
        http_client.infer("tiny", [make(HttpInput)])
    assert refused(client, make(InferInput)) == (code, over_http.value.message())


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        ("tinny", "NOT_FOUND", "Did you mean 'tiny'"),
        ("tiny/versions/1", "INVALID_ARGUMENT", "name: String should match pattern"),
        ("../../v1/models", "INVALID_ARGUMENT", "name: String should match pattern"),
        ("é" * 5000, "INVALID_ARGUMENT", "name: String should match pattern"),
    ],
)
def test_a_model_that_is_not_there_is_named(client: InferenceServerClient, model: str, code: str, message: str) -> None:
    found, said = refused(client, model=model)
    assert found == code
    assert message in said


def test_messages_are_as_large_as_bodies_may_be(client: InferenceServerClient) -> None:
    code, message = refused(client, image(b"0" * 2**21))
    assert code == "RESOURCE_EXHAUSTED"
    assert "larger than max" in message
    assert client.is_server_live()


def test_a_full_queue_a_timeout_and_a_deadline_are_errors_of_their_own(
    settings: Settings, tmp_path: Path, held: Held, forwarded: list[int]
) -> None:
    with calling(settings, tmp_path, queue_images=4) as (server, client):
        held.release.set()
        client.infer("tiny", [image(DISC)])
        held.release.clear()
        predictor = server.service.scheduler.predictors["cpu"]
        with ThreadPoolExecutor(99) as threads:
            running = []
            for free in reversed(range(predictor._slots)):
                running.append(threads.submit(client.infer, "tiny", [image(DISC)]))
                until(lambda free=free: predictor._free == free)
            code, message = refused(client, timeout=1000)
            assert (code, message) == ("DEADLINE_EXCEEDED", "no prediction within 0.001 s; the request was dropped")
            assert refused(client, client_timeout=0.1)[0] == "DEADLINE_EXCEEDED"
            outcomes = {"ok": 1, "timeout": 1, "disconnected": 1}
            until(lambda: server.service.metrics.outcomes("tiny", "1") == outcomes)
            waiting = threads.submit(client.infer, "tiny", [image(*[DISC] * 4)])
            until(lambda: predictor.waiting == 4)
            code, message = refused(client)
            assert (code, "pictures are waiting" in message) == ("RESOURCE_EXHAUSTED", True)
            held.release.set()
        assert all(each.result().as_numpy("logits").shape == (1, 3) for each in running)
        assert waiting.result().as_numpy("logits").shape == (4, 3)
    assert sum(forwarded) == 1 + 1 + len(running) + 4, "the warm-up, the first, those that ran, the four that waited"


def test_a_key_is_asked_for_before_tensors_are_received(settings: Settings, tmp_path: Path) -> None:
    with calling(settings, tmp_path, api_keys=frozenset({KEY})) as (_, client):
        assert client.is_server_live()
        code, message = refused(client, image(b"0" * 2**21))  # too large, had it been received
        assert (code, "an API key is needed" in message) == ("UNAUTHENTICATED", True)
        with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
            client.get_model_metadata("tiny")
        for headers in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
            assert client.infer("tiny", [image(DISC)], headers=headers).as_numpy("logits").shape == (1, 3)
        for _ in range(10):
            assert refused(client, headers={"x-api-key": "guess"})[0] == "UNAUTHENTICATED"
        code, message = refused(client, headers={"x-api-key": KEY})
        assert (code, "sent 10 wrong API keys" in message) == ("RESOURCE_EXHAUSTED", True)


def test_a_key_that_only_reads_predicts_nothing(settings: Settings, tmp_path: Path) -> None:
    with calling(settings, tmp_path) as (server, client):
        database = server.service.store.database
        keys = {scope: {"x-api-key": create_key(database, scope, scope)} for scope in (Scope.READ, Scope.SUBMIT)}
        server.service.callers.refresh(database)
        assert refused(client)[0] == "UNAUTHENTICATED"
        assert client.get_model_metadata("tiny", headers=keys[Scope.READ])
        code, message = refused(
            client, image(b"0" * 2**21), headers=keys[Scope.READ]
        )  # too large, had it been received
        assert (code, "needs the scope submit" in message) == ("PERMISSION_DENIED", True)
        assert client.infer("tiny", [image(DISC)], headers=keys[Scope.SUBMIT]).as_numpy("logits").shape == (1, 3)


def test_a_call_is_a_span_of_its_callers_trace(client: InferenceServerClient, exporter: InMemorySpanExporter) -> None:
    client.infer("tiny", [image(DISC)], headers=SENT)
    until(lambda: named(exporter, "POST /v2/models/{name}/infer"))
    spans = exporter.get_finished_spans()
    assert {f"{each.context.trace_id:032x}" for each in spans if each.context} == {TRACE}
    assert len(named(exporter, "forward")) == 1


def test_a_port_in_use_is_said_before_the_service_starts(
    both: tuple[Server, InferenceServerClient], settings: Settings, tmp_path: Path
) -> None:
    port = both[0].app.state.grpc_port
    with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1, port {port}: .*WITHSTAND_GRPC_PORT"):
        require_startable(settings.model_copy(update={"data_dir": tmp_path, "port": 0, "grpc_port": port}))


@pytest.mark.parametrize("library", ["grpc", "tritonclient"])
def test_a_missing_library_is_said_with_what_to_install(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # as where it is not installed
    with pytest.raises(StartError, match=r"WITHSTAND_GRPC_PORT needs .* uv pip install '.\[grpc\]'"):
        require_startable(settings.model_copy(update={"data_dir": tmp_path, "port": 0, "grpc_port": 0}))
