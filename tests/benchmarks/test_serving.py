"""The load generator against small real servers, the pictures it sends, and the numbers it makes of answers."""

import asyncio
import io
import itertools
import math
import os
import socket
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

import pytest
import uvicorn
from fastapi import FastAPI, File, Response, UploadFile
from PIL import Image

from benchmarks.serving import pictures
from benchmarks.serving.contenders import FLOORS, Contender, Subject, serving
from benchmarks.serving.load import Answer, Clients, Load, Mark, answered, arrivals, percentile, run, served
from benchmarks.serving.peers import floor
from benchmarks.serving.processes import usage
from benchmarks.serving.summary import describe, slope
from common.pictures import PictureError, open_picture
from tests.server import until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files; only one is called broken."""
    path = tmp_path_factory.mktemp("pictures")
    (path / "00.jpg").write_bytes(b"good" * 5000)
    (path / "broken-00.jpg").write_bytes(b"broken" * 5000)
    return path


@contextmanager
def listening(app: Any) -> Iterator[int]:
    """Serve an application on a free port until the block ends."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1))
    thread = Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def a_load(port: int, folder: Path, **changes: Any) -> Load:
    facts = {"port": port, "path": "/predict", "form": False, "pictures": folder, "seconds": 0.3, "warm_up_s": 0.1}
    return Load.model_validate(facts | changes)


@pytest.mark.parametrize("pace", [{"connections": 4}, {"rate": 200.0}])
def test_every_request_is_answered_and_counted(folder: Path, pace: dict[str, float]) -> None:
    with listening(floor) as port:
        sample = run(a_load(port, folder, **pace))
    assert set(sample.statuses) == {"good", "broken"}
    assert all(set(counts) == {"200"} for counts in sample.statuses.values())
    assert len(sample.latencies_ms) == sample.statuses["good"]["200"] > 5
    assert all(0 < each < 10_000 for each in sample.latencies_ms)
    assert sample.rate > 0 and not sample.failures


@pytest.mark.parametrize("form", [True, False])
def test_pictures_arrive_unchanged(folder: Path, form: bool) -> None:
    received: set[bytes] = set()
    app = FastAPI()

    @app.post("/form")
    async def read_form(file: Annotated[UploadFile, File()]) -> None:
        received.add(await file.read())

    async def read_body(scope: Any, receive: Any, send: Any) -> None:
        chunks = [await receive()]
        while chunks[-1].get("more_body"):
            chunks.append(await receive())
        received.add(b"".join(each["body"] for each in chunks))
        await Response()(scope, receive, send)

    app.mount("/body", read_body)
    with listening(app) as port:
        run(a_load(port, folder, form=form, connections=2, path="/form" if form else "/body/"))
    assert received == {file.read_bytes() for file in folder.iterdir()}


def test_refusals_are_failures_and_have_no_latency(folder: Path) -> None:
    app = FastAPI()
    app.post("/predict")(lambda: Response(status_code=503))
    with listening(app) as port:
        sample = run(a_load(port, folder, connections=2))
    assert sample.rate == 0 and sample.latencies_ms == []
    assert set(sample.failures) == {"503"}


def test_a_server_that_closes_after_every_answer_is_asked_again(folder: Path) -> None:
    app = FastAPI()
    app.post("/predict")(lambda: Response(headers={"Connection": "close"}))
    with listening(app) as port:
        sample = run(a_load(port, folder, connections=2))
    assert set(sample.statuses["good"]) == {"200"} and len(sample.latencies_ms) > 2


def test_a_request_on_a_connection_that_ended_after_an_error_is_sent_again(folder: Path) -> None:
    def fail() -> None:
        raise RuntimeError("no model")

    app = FastAPI()
    app.post("/predict")(fail)  # uvicorn closes after the answer, without saying so in it
    with listening(app) as port:
        sample = run(a_load(port, folder, connections=2))
    assert set(sample.failures) == {"500"}


def test_a_server_that_hangs_up(folder: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.recv(100)
            connection.close()

    thread = Thread(target=hang_up)
    thread.start()
    port = listener.getsockname()[1]
    try:
        sample = run(a_load(port, folder, connections=2))
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
    assert sample.rate == 0 and set(sample.failures) == {"closed"}
    unreachable = run(a_load(port, folder, rate=50.0))
    assert set(unreachable.failures) == {"unreachable"}


def test_an_open_loop_sends_without_waiting_for_answers(folder: Path) -> None:
    """The server keeps all waiting until the twentieth has come, which a client that waits for answers would never send."""
    due = list(arrivals(100.0, 1.0, 0))[:20]
    gate, seen = asyncio.Event(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(scope)
            if len(seen) == 20:
                gate.set()
            await gate.wait()
            await floor(scope, receive, send)

    with listening(app) as port:
        sample = run(a_load(port, folder, rate=100.0, seconds=1.0, warm_up_s=0.0))
    assert {status for counts in sample.statuses.values() for status in counts} == {"200"}
    assert max(sample.latencies_ms) > 1000 * (due[-1] - due[2]) / 2


def test_a_load_has_a_pace(folder: Path) -> None:
    with pytest.raises(ValueError, match="connections"):
        run(a_load(1, folder))


def test_a_sample_counts_what_was_due_and_rates_what_was_answered(folder: Path) -> None:
    clients = Clients(a_load(1, folder))
    clients.answers = [
        Answer("good", "200", due=0.9, received=1.1),  # due before, answered within
        Answer("good", "200", due=1.0, received=1.5),
        Answer("good", "200", due=2.5, received=4.0),  # answered after
        Answer("good", "503", due=2.0, received=2.1),
        Answer("broken", "422", due=2.0, received=2.1),
        Answer("good", "200", due=3.0, received=3.1),  # after
    ]
    sample = clients.sample(Mark(1.0, 10.0, None), Mark(3.0, 10.5, None), answered)
    assert (sample.seconds, sample.rate, sample.client_cpu_s) == (2.0, 1.0, 0.5)
    assert sample.latencies_ms == [500.0, 1500.0]
    assert sample.statuses == {"good": {"200": 2, "503": 1}, "broken": {"422": 1}}
    assert sample.failures == {"503": 1}


@pytest.mark.parametrize(("begin", "end"), [(1.0, 3.0), (1.5, 3.0), (1.0, 3.8), (1.95, 2.85)])
def test_a_closed_loop_counts_parts_of_batches(begin: float, end: float) -> None:
    """Thirty clients are answered together each second: 30 a second, wherever the measured seconds begin and end."""
    answers = [Answer("good", "200", at - 0.1, at + 0.9) for at in range(5) for _ in range(30)]
    assert served(answers, begin, end) == pytest.approx(30 * (end - begin))


def test_percentiles_are_values_that_occurred() -> None:
    values = [50.0, 15.0, 40.0, 20.0, 35.0]
    assert [percentile(values, each) for each in (0, 20, 21, 40, 50, 99, 100)] == [15, 15, 20, 20, 35, 50, 50]
    assert percentile(list(range(1, 1001)), 99) == 990
    assert math.isnan(percentile([], 50))


def test_arrivals_keep_their_rate_and_are_repeatable() -> None:
    times = list(arrivals(100.0, 100.0, 3))
    assert times == list(arrivals(100.0, 100.0, 3)) != list(arrivals(100.0, 100.0, 4))
    assert times == sorted(times) and times[-1] < 100
    assert len(times) == pytest.approx(10_000, rel=0.05)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert statistics.stdev(gaps) == pytest.approx(0.01, rel=0.05)  # of an exponential: as large as its mean


def test_pictures_are_the_same_each_time_and_of_the_size_of_photographs() -> None:
    files = pictures.jpegs(10)
    assert files == pictures.jpegs(10) and files[:2] != pictures.jpegs(2, seed=1)
    assert len(set(files)) == 10
    assert all(50_000 <= len(each) <= 130_000 for each in files)
    images = [Image.open(io.BytesIO(each)) for each in files]
    assert [each.size for each in images] == list(pictures.SIZES) * 2
    assert [index for index, each in enumerate(images) if each.info.get("progressive")] == [3, 7]


def test_broken_pictures_cannot_be_opened() -> None:
    for each in pictures.broken(pictures.jpegs(4)):
        with pytest.raises(PictureError):
            open_picture(each)


def test_slopes_and_counts() -> None:
    assert slope([3.0, 5.0, 7.0]) == pytest.approx(2) and slope([1.0]) == 0
    assert describe([{"503": 2}, {"503": 1, "closed": 1}]) == "503: 3, closed: 1" and describe([{}]) == "0"


def test_usage_adds_up_a_session() -> None:
    found = usage(os.getsid(0))
    assert found.cpu_s > 0 and found.peak_rss_bytes >= found.rss_bytes > 10 * 2**20
    assert usage(2**30).rss_bytes == 0


@pytest.mark.slow
def test_a_contender_is_started_asked_and_ended(folder: Path, tmp_path: Path) -> None:
    subject = Subject("none", tmp_path / "none")
    with serving(FLOORS[0], subject, tmp_path) as running:
        sample = run(a_load(running.port, folder, session=running.session, connections=2))
        assert usage(running.session).rss_bytes > 10 * 2**20
    assert sample.rate > 0 and sample.before and sample.after and sample.after.rss_bytes > 10 * 2**20
    assert sample.after.cpu_s >= sample.before.cpu_s > 0
    assert usage(running.session).rss_bytes == 0


def test_a_contender_that_ends_at_once_shows_its_log(tmp_path: Path) -> None:
    contender = Contender("one that fails", ("-c", "raise SystemExit('no model at {checkpoint}')"))
    with (
        pytest.raises(RuntimeError, match="no model at /here"),
        serving(contender, Subject("none", Path("/here")), tmp_path),
    ):
        pass
