"""The servers under test: how each is started, asked and ended."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from benchmarks.serving.null import NULL
from benchmarks.serving.processes import usage

START_TIMEOUT_S, STOP_TIMEOUT_S = 120.0, 15.0
SETTLED_CORES = 0.3
"""A server that uses less than so much of a core has started up; LitServe's idle workers use up to 0.2."""


@dataclass(frozen=True)
class Subject:
    """A model that is served, and the folder of its checkpoint."""

    name: str
    checkpoint: Path


@dataclass(frozen=True)
class Contender:
    """A server.

    In `command`, `path` and the values of `environment`, {port}, {model}, {checkpoint}, {models} (a folder of checkpoints), {null}
    (that of the null model's) and {data} (an empty folder) are filled in.
    """

    name: str
    command: tuple[str, ...]
    path: str = "/predict"
    health: str = "/health"
    form: bool = True
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    needs: str | None = None
    """A package that must be installed."""

    @property
    def is_installed(self) -> bool:
        """Is there what it needs?"""
        return self.needs is None or find_spec(self.needs) is not None


def ours(name: str, *, form: bool = True, module: str = "cli.main", **environment: str) -> Contender:
    """A variant of this service; keywords are settings without their prefix, in lower case."""
    settings = {
        "port": "{port}",
        "data_dir": "{data}",
        "model_dirs": '["{models}"]',
        "max_address_connections": "1000",  # the load stands for many clients, and has one address
    } | environment
    return Contender(
        name,
        ("-m", module, "serve"),
        path="/v1/models/{model}/predict",
        health="/readyz",
        form=form,
        environment={f"WITHSTAND_{key.upper()}": value for key, value in settings.items()},
    )


def _litserve(name: str, *flags: str) -> Contender:
    command = ("-m", "benchmarks.serving.litserve_peer", "--checkpoint", "{checkpoint}", "--port", "{port}", *flags)
    return Contender(name, command, needs="litserve")


_PEERS = ("-m", "benchmarks.serving.peers")

CONTENDERS = (
    ours("withstand, float32"),
    _litserve("LitServe"),
    _litserve("LitServe, two workers of one thread", "--workers", "2", "--threads", "1"),
    Contender("plain FastAPI", (*_PEERS, "fastapi", "--checkpoint", "{checkpoint}", "--port", "{port}")),
)

OVERRUN = (ours("withstand, float32, 64 places", queue_images="64"),)
"""More of them for an overload: with a queue that is shorter than the crowd."""

WITHOUT_A_MODEL = ours("withstand, null model", module="benchmarks.serving.null", model_dirs='["{null}"]')
"""All that is not the model: HTTP, queue, decoding, batching, answers."""

FLOORS = (
    Contender("bare uvicorn, raw body", (*_PEERS, "floor", "--port", "{port}"), form=False),
    Contender("FastAPI, form", (*_PEERS, "form-floor", "--port", "{port}")),
)
"""HTTP without a model."""


@dataclass(frozen=True)
class Running:
    """A server that answers: where, and the session of its processes."""

    contender: Contender
    path: str
    port: int
    session: int


@contextmanager
def serving(contender: Contender, subject: Subject, folder: Path, *, on: Sequence[str] = ()) -> Generator[Running]:
    """Run a server until the block ends, with all processes it starts.

    Args:
        contender: which.
        subject: the model it serves.
        folder: for its log and its data.
        on: begins its command, such as ("taskset", "--cpu-list", "0").

    Raises:
        RuntimeError: it did not start; the message ends with its log.
    """
    port = _free_port()
    data = folder / f"{contender.name} {port}"
    data.mkdir()
    places = {
        "{port}": str(port),
        "{model}": subject.name,
        "{checkpoint}": str(subject.checkpoint),
        "{models}": str(folder / "models"),
        "{null}": str(folder / NULL),
        "{data}": str(data),
    }
    environment = os.environ | {key: _filled(value, places) for key, value in contender.environment.items()}
    command = [*on, sys.executable, *(_filled(each, places) for each in contender.command)]
    with (data / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)  # noqa: S603
    try:
        _wait_until_ready(process, port, contender.health, data / "log")
        _wait_until_settled(process.pid)
        yield Running(contender, _filled(contender.path, places), port, process.pid)
    finally:
        _stop(process)


def _filled(text: str, places: Mapping[str, str]) -> str:
    for place, value in places.items():
        text = text.replace(place, value)
    return text


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _is_ready(port, path):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)


def _wait_until_settled(session: int) -> None:
    """Wait for what a server still does after it says that it is ready, so that this is not measured."""
    deadline, used = time.monotonic() + START_TIMEOUT_S, usage(session).cpu_s
    while time.monotonic() < deadline:
        time.sleep(1)
        before, used = used, usage(session).cpu_s
        if used - before < SETTLED_CORES:
            break


def _is_ready(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then end what is left of its session."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
