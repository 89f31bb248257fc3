"""The open inference protocol over gRPC: each call is asked of the application as the HTTP request that means the same.

Keys, limits, errors, metrics and spans are therefore those of HTTP; the raw contents of a tensor are its binary part.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import zip_longest
from typing import Any, NamedTuple, cast
from urllib.parse import quote, unquote

import grpc
import numpy as np
from google.protobuf.json_format import ParseDict
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.accounts.callers import Callers
from service.http.access.keys import given_key, sent_headers
from service.http.access.scopes import needed_scope
from service.http.problems import shortened
from service.kserve import tensors
from service.kserve.routes import HEADER_BYTES
from service.settings import Settings

SENT = frozenset({"authorization", "x-api-key", "x-request-id", "traceparent", "tracestate"})
"""Metadata of a call that become headers."""

RETURNED = frozenset({"retry-after", "server-timing", "x-request-id", "traceparent"})
"""Headers of an answer that become metadata."""

LONGEST_DETAIL = 800
"""Characters of what an error says: metadata have 8 KiB, and a character may take 9 bytes of them."""

STOP_S = 5.0
"""How long calls may go on when the service ends, seconds."""

_REFUSED = "/v2/models/-/infer"
"""Where a call is asked that is refused for its key."""

_log = logging.getLogger(__name__)

_pb: Any = service_pb2  # generated when it is imported

_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class Answer(NamedTuple):
    """What the application answered."""

    status: int
    headers: Headers
    body: bytes


@asynccontextmanager
async def serving_rpc(app: ASGIApp, settings: Settings, callers: Callers) -> AsyncGenerator[int]:
    """Serve on the port of the settings until the block ends; gives the port, which is another one where they say 0.

    Raises:
        RuntimeError: the port cannot be bound.
    """
    options = (
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", int(settings.processes > 1)),
    )
    calls = _Inference(app)
    server = grpc.aio.server(
        interceptors=[_KeysFirst(calls, callers)],
        options=options,
        maximum_concurrent_rpcs=settings.max_connections,
    )
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(calls, server)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    port = server.add_insecure_port(f"{host}:{settings.grpc_port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(STOP_S)


class _Inference(service_pb2_grpc.GRPCInferenceServiceServicer):
    """The calls, named as the protocol names them; those that are not here are answered UNIMPLEMENTED."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer as long as the process is alive."""
        answer = await self.ask(context, "/v2/health/live")
        return _pb.ServerLiveResponse(live=_flag(answer, "live"))

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Tell whether models can be found and the database can be read."""
        answer = await self.ask(context, "/v2/health/ready")
        return _pb.ServerReadyResponse(ready=_flag(answer, "ready"))

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Tell whether the next picture would find the model in memory."""
        answer = await self.ask(context, f"{_path(request.name, request.version)}/ready")
        return _pb.ModelReadyResponse(ready=_flag(answer, "ready"))

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Tell what the server is."""
        answer = await self.ask(context, "/v2")
        return ParseDict(json.loads(answer.body), _pb.ServerMetadataResponse())

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Tell what a model takes and gives."""
        answer = await self.ask(context, _path(request.name, request.version))
        return ParseDict(json.loads(answer.body), _pb.ModelMetadataResponse(), ignore_unknown_fields=True)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer logits or probabilities for pictures."""
        head, parts = _read(request)
        path = f"{_path(request.model_name, request.model_version)}/infer"
        answer = await self.ask(context, path, b"".join((head, *parts)), {HEADER_BYTES: str(len(head))})
        return _answer(answer)

    async def ask(
        self, context: Any, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Ask the application; what it refuses ends the call."""
        given = [(name, value) for name, value in context.invocation_metadata() or () if name in SENT]
        sent = [("host", "localhost"), *given, *(headers or {}).items()]
        answer = await _request(self._app, path, sent, body, context.peer())
        context.set_trailing_metadata(
            [(name, value) for name, value in answer.headers.items() if name in RETURNED],
        )
        if answer.status >= 400 and b'"ready":false' not in answer.body:
            await context.abort(_code(answer), shortened(json.loads(answer.body)["detail"], LONGEST_DETAIL))
        return answer


class _KeysFirst(grpc.aio.ServerInterceptor):
    """Refuses a request for predictions that lacks a key before its tensors are received, as HTTP does before the body."""

    def __init__(self, calls: _Inference, callers: Callers) -> None:
        self._calls, self._callers = calls, callers

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Pass on, or refuse."""
        if not handler_call_details.method.endswith("/ModelInfer"):
            return await continuation(handler_call_details)
        key = given_key(sent_headers(Headers(dict(handler_call_details.invocation_metadata)).raw))
        caller = self._callers.find(key) or self._callers.without(key)
        if caller is not None and caller.scope.covers(needed_scope("POST", _REFUSED)):
            return await continuation(handler_call_details)
        return grpc.stream_unary_rpc_method_handler(self._refuse)

    async def _refuse(self, _unread: object, context: Any) -> None:
        await self._calls.ask(context, _REFUSED, b"")


async def _request(
    app: ASGIApp, path: str, headers: Iterable[tuple[str, str]], body: bytes | None, peer: str
) -> Answer:
    """Pass one request through the application, as a server of HTTP does."""
    encoded = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers]
    address, _, port = unquote(peer).partition(":")[2].rpartition(":")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "2",
        "method": "GET" if body is None else "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [*encoded, (b"content-length", str(len(body or b"")).encode())],
        "client": (address.strip("[]"), int(port)) if port.isdecimal() else ("localhost", 0),
        "server": None,
    }
    unread = [body or b""]
    started: Message = {}
    chunks: list[bytes] = []

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop()}
        return await asyncio.Future()  # where a client leaves, or its deadline passes, the call is cancelled

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        else:
            chunks.append(message.get("body", b""))

    try:
        await app(scope, receive, send)
    except Exception:  # it is answered before it is raised
        _log.exception("%s", path)
    return Answer(started["status"], Headers(raw=list(started["headers"])), b"".join(chunks))


def _code(answer: Answer) -> grpc.StatusCode:
    if answer.status == 503 and "retry-after" in answer.headers:  # there is no room
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    return _CODES.get(answer.status, grpc.StatusCode.INVALID_ARGUMENT)


def _flag(answer: Answer, name: str) -> bool:
    return bool(json.loads(answer.body)[name])


def _path(name: str, version: str) -> str:
    """The path of a model: what no name may have is quoted, so that it stays one part of the path, and is refused there."""
    of_model = f"/v2/models/{quote(name, safe='@')}"
    return f"{of_model}/versions/{quote(version, safe='')}" if version else of_model


def _read(request: Any) -> tuple[bytes, list[bytes]]:
    """Write a ModelInferRequest as JSON and the binary parts behind it."""
    pairs = zip_longest(request.inputs, request.raw_input_contents)
    parts = [_contents(each) if raw is None else raw for each, raw in pairs]
    inputs = [
        {"name": each.name, "shape": list(each.shape), "datatype": each.datatype}
        | _parameters(each, binary_data_size=len(part))
        for each, part in zip(request.inputs, parts, strict=False)
    ]
    outputs = [{"name": each.name} | _parameters(each, binary_data=True) for each in request.outputs]
    head = {"id": request.id or None, "inputs": inputs, "outputs": outputs or None}
    return json.dumps(head | _parameters(request, binary_data_output=True)).encode(), parts


def _parameters(message: Any, **ours: object) -> dict[str, Any]:
    given = message.parameters.items()
    values = {name: getattr(each, each.WhichOneof("parameter_choice") or "", None) for name, each in given}
    return {"parameters": values | ours}


def _contents(sent: Any) -> bytes:
    """The binary part of a tensor whose elements are in the message; other types are refused by their names."""
    if sent is None or not sent.HasField("contents"):
        return b""
    if sent.datatype == "BYTES":
        return tensors.bytes_to_binary(sent.contents.bytes_contents)
    return tensors.floats_to_binary(np.asarray(sent.contents.fp32_contents, np.float32))


def _answer(answer: Answer) -> Any:
    """Read an answer's JSON and binary parts as ModelInferResponse."""
    header, rest = tensors.split(answer.body, answer.headers.get(HEADER_BYTES))
    head = json.loads(header)
    sizes = [(each["name"], each["parameters"]["binary_data_size"]) for each in head["outputs"]]
    parts = cast(list[memoryview], list(tensors.share_out(rest, sizes)))
    response = _pb.ModelInferResponse(model_name=head["model_name"], model_version=head["model_version"])
    response.id = head.get("id", "")
    for each in head["outputs"]:
        response.outputs.add(name=each["name"], datatype=each["datatype"], shape=each["shape"])
    response.raw_output_contents.extend(bytes(part) for part in parts)
    return response
