"""The real application on a real port, with tiny models; one server for all tests of a process."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any, cast

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

import evaluation.plan
from evaluation import Catalog, EvaluationSpec, Plan, Shard, ShardResult
from evaluation.compute.conditions import Row
from evaluation.data.classes import ClassMatch
from service.http.deps import Service
from service.server import config
from service.settings import Settings
from tests.conftest import Put

DEADLINE_S = 60.0
EVIL = "<script>alert('withstand')</script>"


def until(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)


def equal_classes(count: int) -> ClassMatch:
    """A model and a data set have the same classes."""
    return ClassMatch(rule="name", logits=tuple(range(count)), model_classes=count)


def a_plan(number: int = 0, *, images: int = 250, spec: EvaluationSpec | None = None) -> Plan:
    """A plan of one clean condition; 250 images are three shards of 100, 100 and 50."""
    spec = spec or EvaluationSpec(models=("tiny",), dataset="shapes")
    return Plan(
        id=f"{number:016x}",
        spec=spec,
        images=images,
        classes=3,
        matches=dict.fromkeys(spec.models, equal_classes(3)),
        dataset_sha256=f"{number:064x}",
        model_sha256={"tiny": "e" * 64},
    )


def a_result(shard: Shard, *, prediction: int = 0) -> ShardResult:
    """All images of a shard, all of class 0."""
    rows = [
        Row(
            index=index,
            label=0,
            clean_prediction=prediction,
            clean_confidence=0.75,
            prediction=prediction,
            confidence=None,
            rank=prediction,
        )
        for index in range(shard.start, shard.stop)
    ]
    return ShardResult(shard=shard, rows=tuple(rows), images_forwarded=shard.images, seconds=0.5)


@dataclass(frozen=True)
class Server:
    """A running server: its application, its address, and a client of it."""

    app: FastAPI
    url: str
    http: httpx.Client
    loop: asyncio.AbstractEventLoop

    @property
    def service(self) -> Service:
        return self.app.state.service


QUIET: dict[str, Any] = {"port": 0, "log_level": "critical", "timeout_graceful_shutdown": 1}


class _Uvicorn(uvicorn.Server):
    """Knows its event loop."""

    loop: asyncio.AbstractEventLoop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Serve any application on a free port until the block ends; gives its address."""
    with _listening(uvicorn.Config(app, ws="none", **QUIET)) as (url, _):
        yield url


@contextmanager
def _listening(configured: uvicorn.Config) -> Iterator[tuple[str, asyncio.AbstractEventLoop]]:
    server = _Uvicorn(configured)
    thread = Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", server.loop
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def serving(settings: Settings) -> Iterator[Server]:
    """Run the service as `withstand serve` does, on a free port, until the block ends."""
    configured = config(settings, **QUIET)
    app = cast(FastAPI, configured.app)
    with _listening(configured) as (url, loop), httpx.Client(base_url=url, timeout=DEADLINE_S) as http:
        yield Server(app, url, http, loop)


@pytest.fixture(scope="session")
def settings(catalog: Catalog, put_checkpoint: Put, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Tiny models, one of them with a hostile card, beside the zoo."""
    more = tmp_path_factory.mktemp("more")
    put_checkpoint(more, "evil", training=EVIL, dataset=EVIL, clean_accuracy=0.5, clean_accuracy_on=EVIL)
    return Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        model_dirs=(*catalog.model_folders, more),
        dataset_dirs=catalog.dataset_folders,
        devices=("cpu",),
        max_body_bytes=2**20,
        max_images=4,
    )


@pytest.fixture(scope="session")
def server(settings: Settings) -> Iterator[Server]:
    with serving(settings) as running:
        yield running


@pytest.fixture(scope="module")
def fresh(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a module's own, with shards of four images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation.plan, "SHARD_IMAGES", 4)
        with serving(settings.model_copy(update={"data_dir": tmp_path_factory.mktemp("fresh")})) as running:
            yield running


@pytest.fixture
def http(server: Server) -> httpx.Client:
    return server.http
