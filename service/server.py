"""Runs the application under uvicorn: in this process, or in several behind one port."""

import ctypes
import gc
import json
import os
import sys
import tempfile
from contextlib import suppress
from functools import cache, partial
from typing import Any

import uvicorn
from fastapi import FastAPI

from common.processes import end_with_parent
from service.app import create_app
from service.http.connection import Connection, ConnectionLimits
from service.logs import JSON
from service.metrics import SHARED_FOLDER
from service.settings import PREFIX, Settings

SWITCH_INTERVAL_S = 0.0005
"""How long a Python thread may go on while another wants to: with the default of 5 ms a busy event loop makes a forward pass, which
asks for Python's lock at every layer, three times as long."""

M_ARENA_MAX, ARENAS = -8, 2
"""Of glibc's mallopt: heaps that threads share. With one for each thread, scratch memory of forward passes lies about in all."""

YOUNG_OBJECTS = 10_000
"""Made and not freed, after which garbage is looked for; with the default, 700, waiting requests are looked at again and again."""

_UVICORN: dict[str, Any] = {
    "loop": "uvloop",
    "ws": "none",
    "access_log": False,  # /metrics counts requests
    "timeout_graceful_shutdown": 5,
}


def config(settings: Settings, **changes: Any) -> uvicorn.Config:
    """Configure uvicorn for one process."""
    own: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "http": partial(Connection, ConnectionLimits.of(settings)),
    }
    return uvicorn.Config(_tuned(settings), **_UVICORN | _log(settings) | own | changes)


def run(settings: Settings) -> None:
    """Serve until the process is told to end.

    Several processes answer behind one port if the settings say so. Each has its own queue and its own copies of models; limits
    hold for all together, and what loads in one loads in all. One of them is the dispatcher of evaluations. All read the same
    files and the same database.
    """
    if settings.processes == 1:
        uvicorn.Server(config(settings)).run()
        return
    with tempfile.TemporaryDirectory(prefix="withstand-metrics-") as shared:
        os.environ[SHARED_FOLDER] = shared
        os.environ.update(_as_environment(settings.model_copy(update={"workers": settings.processes})))
        uvicorn.run(
            "service.server:app_of_environment",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.processes,
            http="service.server:connection_of_environment",  # by name: a process that imports it first seems dead
            **_UVICORN | _log(settings),
        )


def app_of_environment() -> FastAPI:
    """Build the application in one of several processes."""
    end_with_parent()
    return _tuned(Settings())


def connection_of_environment(**of_uvicorn: Any) -> Connection:
    """Make a connection in one of several processes."""
    return Connection(_limits_of_environment(), **of_uvicorn)


@cache
def _limits_of_environment() -> ConnectionLimits:
    return ConnectionLimits.of(Settings())


def _log(settings: Settings) -> dict[str, Any]:
    """How uvicorn sets up the log of a process."""
    return {"log_config": JSON} if settings.log_format == "json" else {}


def _tuned(settings: Settings) -> FastAPI:
    """Build the application, and set what is set once per process."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with suppress(AttributeError, OSError, TypeError):  # another C library: it has no such knob
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)
    app = create_app(settings)
    gc.set_threshold(YOUNG_OBJECTS)
    gc.freeze()  # what was imported is never garbage: looking through it would stop every thread for 0.2 s at a time
    return app


def _as_environment(settings: Settings) -> dict[str, str]:
    """Write settings as the environment variables that give them again."""
    values = settings.model_dump(mode="json", exclude_none=True)
    return {
        f"{PREFIX}{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    }
