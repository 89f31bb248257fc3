"""Behind a reverse proxy that serves the application below a path prefix, and passes that on or strips it."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import unescape
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from service.settings import Settings
from tests.server import DEADLINE_S, Server, listening, serving, until
from tests.service.http.page import Page
from withstand import Client

PREFIX = "/some/prefix"
SPEC = {
    "models": ["tiny"],
    "dataset": "shapes",
    "images": 12,
    "conditions": [
        {"kind": "clean"},
        {"kind": "transform", "name": "rotation", "parameters": {"degrees": 90}},
    ],
}


def proxy_to(url: str, *, strip: bool) -> Starlette:
    """A reverse proxy that knows nothing but what lies below the prefix."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as app.state.http:
            yield

    async def forward(request: Request) -> StreamingResponse:
        path = request.url.path.removeprefix(PREFIX) if strip else request.url.path
        there = httpx.URL(path=path, query=request.url.query.encode())
        http: httpx.AsyncClient = request.app.state.http
        body = await request.body()
        sent = http.build_request(request.method, there, headers=request.headers.raw, content=body)
        answer = await http.send(sent, stream=True)
        passed = StreamingResponse(answer.aiter_raw(), answer.status_code)
        passed.raw_headers = [(name.lower(), value) for name, value in answer.headers.raw]
        return passed

    methods = ["GET", "POST", "PUT", "DELETE"]
    routes = [Route(f"{PREFIX}{rest}", forward, methods=methods) for rest in ("", "/{path:path}")]
    return Starlette(routes=routes, lifespan=lifespan)


@dataclass(frozen=True)
class Proxied:
    """A service, the address of a proxy before it, and a client that knows the host alone."""

    service: Server
    url: str
    http: httpx.Client


@pytest.fixture(scope="module")
def prefixed(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    changed = {"root_path": PREFIX, "data_dir": tmp_path_factory.mktemp("prefixed"), "max_body_bytes": 2**10}
    with serving(settings.model_copy(update=changed)) as running:
        yield running


@pytest.fixture(scope="module", params=["stripped", "passed on"])
def proxied(prefixed: Server, request: pytest.FixtureRequest) -> Iterator[Proxied]:
    proxy = proxy_to(prefixed.url, strip=request.param == "stripped")
    with listening(proxy) as url, httpx.Client(base_url=url, timeout=DEADLINE_S) as http:
        yield Proxied(prefixed, url, http)


@pytest.fixture
def done(proxied: Proxied) -> dict[str, Any]:
    answer = proxied.http.post(f"{PREFIX}/v1/evaluations", json=SPEC)
    state = answer.raise_for_status().json()
    assert answer.headers["location"] == state["links"]["self"]
    with proxied.http.stream("GET", state["links"]["events"]) as events:
        assert '"status":"done"' in events.read().decode()
    return state


def addresses(answer: httpx.Response) -> set[str]:
    """Everything that a page, its scripts, or an answer in JSON points to."""
    if answer.headers["content-type"].startswith("text/html"):
        page = Page(answer.text)
        data = {found["data-changes"] or "" for _, found in page.tags if "data-changes" in found}
        assert all(each.startswith(f"{PREFIX}/") for each in data)
        docs = re.findall(r"url: '(.*)'", answer.text)
        return {unescape(each) for each in (*page.addresses, *docs)}
    found = answer.json() if answer.headers["content-type"] == "application/json" else None
    return {*found.get("links", {}).values()} if isinstance(found, dict) else set()


def test_every_link_script_and_picture_of_every_page_is_there(proxied: Proxied, done: dict[str, Any]) -> None:
    paths, seen = {f"{PREFIX}/", done["links"]["self"]}, set[str]()
    while paths:
        path = paths.pop()
        seen.add(path)
        assert path.startswith(f"{PREFIX}/"), path
        answer = proxied.http.get(path)
        assert answer.status_code == 200, path
        paths |= {each for each in addresses(answer) if not each.startswith("data:")} - seen
    for wanted in (
        "/docs",
        "/openapi.json",
        "/static/live.js",
        "/static-offline-docs/swagger-ui.css",
        "/v1/models/tiny",
    ):
        assert PREFIX + wanted in seen
    assert {*done["links"].values()} <= seen
    assert any(each.endswith("/clean.png") for each in seen)


def test_pages_follow_what_is_running(proxied: Proxied, done: dict[str, Any]) -> None:
    for path in (f"{PREFIX}/", done["links"]["page"]):
        changes = re.findall(r'data-changes="(.*?)"', proxied.http.get(path).text)
        answer = proxied.http.post(changes[0], json=[])
        assert answer.status_code == 200
        assert "data-hash" in answer.text


def test_paths_of_the_openapi_document_lie_below_its_server(proxied: Proxied) -> None:
    document = proxied.http.get(f"{PREFIX}/openapi.json").json()
    assert document["servers"] == [{"url": PREFIX}]
    for path in ("/v1/models", "/v1/evaluations", "/v2", "/healthz"):
        assert path in document["paths"]
        assert proxied.http.get(document["servers"][0]["url"] + path).status_code == 200


def test_the_address_without_a_slash_leads_to_the_first_page(proxied: Proxied) -> None:
    answer = proxied.http.get(PREFIX, follow_redirects=True)
    assert answer.status_code == 200
    assert 'id="overview"' in answer.text


def test_the_hint_of_the_first_page_is_the_address_that_the_reader_used(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    changed = {"root_path": PREFIX, "data_dir": tmp_path_factory.mktemp("empty")}
    with serving(settings.model_copy(update=changed)) as fresh:
        assert f"curl -X POST {fresh.url}{PREFIX}/v1/evaluations" in Page(fresh.http.get("/").text).text


def test_the_client_takes_an_address_with_a_prefix(proxied: Proxied) -> None:
    for url in (f"{proxied.url}{PREFIX}", f"{proxied.url}{PREFIX}/"):
        with Client(url) as client:
            assert client.ready()
            submitted = client.submit(SPEC)
            assert [*client.watch(submitted["id"])][-1]["status"] == "done"
            assert client.evaluation(submitted["id"])["report"]["complete"]


def test_forms_have_their_own_limit_and_other_bodies_theirs(proxied: Proxied) -> None:
    big = b"0" * 2**11
    form = proxied.http.post(f"{PREFIX}/v1/datasets", files={"file": ("big.zip", big)})
    assert (form.status_code, "no zip" in form.text or "zip" in form.text) == (422, True)
    assert proxied.http.post(f"{PREFIX}/v1/evaluations", content=big).status_code == 413


def test_probes_are_answered_without_the_prefix(prefixed: Server) -> None:
    until(lambda: prefixed.http.get("/readyz").status_code == 200)
    assert prefixed.http.get("/healthz").status_code == 200


@pytest.mark.parametrize("root_path", ["prefix", "/prefix/", "/", "/a//b", "/a b", "http://host/prefix"])
def test_a_prefix_that_is_no_path_is_refused(root_path: str) -> None:
    with pytest.raises(ValidationError, match="root_path"):
        Settings(root_path=root_path)
