"""The load: requests over keep-alive connections of raw asyncio, in a process of its own.

    python -m benchmarks.serving.load < load.json

Reads a `Load` and prints a `Sample`, both JSON. A closed loop has so many clients, each of which asks again as soon as it has its
answer, whatever it says. An open loop sends at times that do not depend on answers: Poisson arrivals, seeded; a latency counts from
the time at which the request was due, so that neither a stalled server nor a late generator hides anything.
"""

import asyncio
import math
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from benchmarks.serving.processes import Usage, usage

TIMEOUT_S = 60.0
"""Longest wait for one answer."""

LONGEST_WARM_UP_S = 20.0
MOST_CONNECTIONS = 512
"""Of an open loop; requests beyond wait in the generator, and their latency counts."""

GOOD, BROKEN = "good", "broken"
OK, CLOSED = "200", "closed"

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_BOUNDARY = b"----------------boundary"


class Load(BaseModel):
    """What to send, where to, and how fast."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int
    path: str
    form: bool
    """Send a multipart form with the field `file`; otherwise the bytes of the picture alone."""
    pictures: Path
    """Folder of files; those whose names begin with "broken" are counted apart."""
    session: int | None = None
    """The server's, whose CPU and memory are read."""
    connections: int | None = None
    """Clients of a closed loop."""
    rate: float | None = None
    """Requests a second of an open loop."""
    seconds: float = 8.0
    warm_up_s: float = 2.0
    seed: int = 0


class Sample(BaseModel):
    """What came of a load.

    Statuses and latencies are of requests due within the measured seconds, also if they were answered later.
    """

    seconds: float
    rate: float
    """Good pictures answered 200, a second."""
    latencies_ms: list[float]
    """Of good pictures answered 200."""
    statuses: dict[str, dict[str, int]]
    """Counts by kind of picture and status; beside HTTP's there are closed, timeout, unreachable and unreadable."""
    client_cpu_s: float
    before: Usage | None
    after: Usage | None

    @property
    def failures(self) -> dict[str, int]:
        """What good pictures were answered beside 200."""
        return {status: count for status, count in self.statuses.get(GOOD, {}).items() if status != OK}


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent of all do not exceed (nearest rank); NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


@dataclass(frozen=True)
class Request:
    """The bytes of a request, and whether its picture is good or broken."""

    kind: str
    content: bytes


def prepare(load: Load) -> list[Request]:
    """Write the request of every picture once."""
    files = sorted(load.pictures.iterdir())
    return [
        Request(BROKEN if file.name.startswith(BROKEN) else GOOD, _write(load, file.read_bytes())) for file in files
    ]


def _write(load: Load, picture: bytes) -> bytes:
    content_type, body = b"image/jpeg", picture
    if load.form:
        content_type = b"multipart/form-data; boundary=" + _BOUNDARY
        disposition = b'Content-Disposition: form-data; name="file"; filename="picture.jpg"'
        head = b"--" + _BOUNDARY + b"\r\n" + disposition + b"\r\nContent-Type: image/jpeg\r\n\r\n"
        body = head + picture + b"\r\n--" + _BOUNDARY + b"--\r\n"
    head = f"POST {load.path} HTTP/1.1\r\nHost: 127.0.0.1:{load.port}\r\nContent-Length: {len(body)}\r\n".encode()
    return head + b"Content-Type: " + content_type + b"\r\n\r\n" + body


class Connection(asyncio.Protocol):
    """One connection: a request at a time; of an answer only status and length are read."""

    def __init__(self) -> None:
        self.answers = 0
        self._received = bytearray()
        self._answer: asyncio.Future[str] | None = None
        self._transport: asyncio.Transport | None = None

    @property
    def is_open(self) -> bool:
        """Can it be used again?"""
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes) -> str:
        """Send a request; returns the status, or what happened instead."""
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport is None or not self.is_open:
            return CLOSED
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer the waiting client once the whole response is there."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = _LENGTH.search(head)
        if length is None:
            self._settle("unreadable")
            self.close()
        elif len(body) >= int(length[1]):
            self._received.clear()
            self.answers += 1
            if b"\r\nconnection: close" in head.lower():
                self.close()
            self._settle(head[9:12].decode(errors="replace"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the waiting client."""
        self._transport = None
        self._settle(CLOSED)

    def _settle(self, status: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)


@dataclass(frozen=True)
class Answer:
    """What became of a request; times are those of the clock, in seconds."""

    kind: str
    status: str
    due: float
    received: float


Count = Callable[[Sequence[Answer], float, float], float]
"""Takes answers and two moments."""


@dataclass(frozen=True)
class Mark:
    """A moment: the clock, the generator's own CPU seconds, what the server has used."""

    at: float
    client_cpu_s: float
    server: Usage | None

    @classmethod
    def now(cls, session: int | None) -> "Mark":
        """Read all."""
        return cls(time.perf_counter(), time.process_time(), None if session is None else usage(session))


class Clients:
    """Those who ask; they share open connections and keep every answer."""

    def __init__(self, load: Load) -> None:
        self.answers: list[Answer] = []
        self._load = load
        self._requests = prepare(load)
        self._random = random.Random(load.seed)  # noqa: S311
        self._idle: list[Connection] = []

    async def ask(self, due: float) -> None:
        """Send one of the pictures, drawn at random, and keep the answer."""
        request = self._random.choice(self._requests)
        status = await self._status(request.content)
        self.answers.append(Answer(request.kind, status, due, time.perf_counter()))

    async def _status(self, content: bytes) -> str:
        connection = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                connection = await self._connection()
                status = await connection.exchange(content)
                while status == CLOSED and connection.answers:  # it had ended after its last answer, as it may
                    connection = await self._connection()
                    status = await connection.exchange(content)
        except TimeoutError:
            if connection is not None:
                connection.close()
            return "timeout"
        except OSError:
            return "unreachable"
        if connection.is_open:
            self._idle.append(connection)
        return status

    async def _connection(self) -> Connection:
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Connection, "127.0.0.1", self._load.port))[1]

    def close(self) -> None:
        """End the connections."""
        for connection in self._idle:
            connection.close()

    def sample(self, begin: Mark, end: Mark, count: Count) -> Sample:
        """Sum up what happened between two moments; `count` tells how many good answers are theirs."""
        due = [each for each in self.answers if begin.at <= each.due < end.at]
        good = [each for each in self.answers if (each.kind, each.status) == (GOOD, OK)]
        return Sample(
            seconds=end.at - begin.at,
            rate=count(good, begin.at, end.at) / (end.at - begin.at),
            latencies_ms=[1000 * (each.received - each.due) for each in due if (each.kind, each.status) == (GOOD, OK)],
            statuses={
                kind: Counter(each.status for each in due if each.kind == kind) for kind in {each.kind for each in due}
            },
            client_cpu_s=end.client_cpu_s - begin.client_cpu_s,
            before=begin.server,
            after=end.server,
        )


def answered(answers: Sequence[Answer], begin: float, end: float) -> float:
    """Count the answers that came between two moments."""
    return sum(begin <= each.received < end for each in answers)


def served(answers: Sequence[Answer], begin: float, end: float) -> float:
    """Count each answer by the part of its waiting that lies between two moments: no batch at a border is all in or all out.

    Right only for as many waiting at the end as at the beginning: a closed loop.
    """
    overlaps = [(min(end, each.received) - max(begin, each.due), each.received - each.due) for each in answers]
    return sum(overlap / whole for overlap, whole in overlaps if overlap > 0)


async def closed_loop(load: Load, connections: int) -> Sample:
    """Keep so many requests under way; it is warm when time has passed and there were as many answers as clients."""
    clients = Clients(load)
    stop = asyncio.Event()

    async def client() -> None:
        while not stop.is_set():
            await clients.ask(time.perf_counter())

    tasks = [asyncio.create_task(client()) for _ in range(connections)]
    start = time.perf_counter()
    await asyncio.sleep(load.warm_up_s)
    while len(clients.answers) < connections and time.perf_counter() - start < LONGEST_WARM_UP_S:
        await asyncio.sleep(0.01)
    begin = Mark.now(load.session)
    await asyncio.sleep(load.seconds)
    end = Mark.now(load.session)
    stop.set()
    await asyncio.gather(*tasks)
    clients.close()
    return clients.sample(begin, end, served)


async def open_loop(load: Load, rate: float) -> Sample:
    """Send at a rate, whatever the server does."""
    clients = Clients(load)
    places = asyncio.Semaphore(MOST_CONNECTIONS)
    start = time.perf_counter()

    async def send(due: float) -> None:
        await _until(due)
        async with places:
            await clients.ask(due)

    async def mark(at: float) -> Mark:
        await _until(at)
        return Mark.now(load.session)

    length = load.warm_up_s + load.seconds
    sent = [send(start + offset) for offset in arrivals(rate, length, load.seed)]
    marks = asyncio.gather(mark(start + load.warm_up_s), mark(start + length))
    await asyncio.gather(*sent)
    clients.close()
    return clients.sample(*await marks, answered)


async def _until(at: float) -> None:
    await asyncio.sleep(max(0.0, at - time.perf_counter()))


def arrivals(rate: float, seconds: float, seed: int) -> Generator[float]:
    """Draw the times of Poisson arrivals, in seconds from the beginning."""
    generator = random.Random(seed)  # noqa: S311
    at = generator.expovariate(rate)
    while at < seconds:
        yield at
        at += generator.expovariate(rate)


def run(load: Load) -> Sample:
    """Send the load."""
    if load.rate is not None:
        return asyncio.run(open_loop(load, load.rate))
    if load.connections is not None:
        return asyncio.run(closed_loop(load, load.connections))
    raise ValueError("a load needs `connections` or `rate`")


if __name__ == "__main__":
    print(run(Load.model_validate_json(sys.stdin.read())).model_dump_json())
