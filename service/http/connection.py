"""One connection, under uvicorn: how much a client may send before anything of it is parsed, and how slowly.

It is uvicorn's connection on httptools, the faster of its two parsers. The other, h11, limits the bytes of a head
(`h11_max_incomplete_event_size`), but neither limits the time that a client takes, nor connections by address.
"""

import resource
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.http.addresses import network
from service.http.load_shedding import SHEDDING
from service.http.problems import problem
from service.settings import Settings

MOST_HEAD_BYTES = 2**16
"""Of a request's address, headers and trailers together."""

MOST_HEADERS = 100

MOST_PIPELINED = 100
"""Requests that wait on a connection behind one that is being answered."""

MIN_BYTES_PER_S = 2**12
"""A body may take this much time beyond the time-out."""

DRAIN_S = 5.0
"""How long the rest of a body is read once its request is answered: a client that still sends would not see the answer."""

TICK_S = 0.5


@dataclass(frozen=True)
class ConnectionLimits:
    """What the connections of a process may take.

    Attributes:
        in_all: most connections; half of the file descriptors stay for checkpoints, data and processes.
        of_one_address: most of them from one address.
        timeout_s: longest wait for a client that has to send or to read.
        open: connections of each address now.
    """

    in_all: int
    of_one_address: int
    timeout_s: float
    open: Counter[str] = field(default_factory=Counter[str])

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read the settings, and the limit on file descriptors."""
        in_all = min(settings.max_connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        return cls(in_all, min(settings.max_address_connections, in_all), settings.receive_timeout_s)


class HeadTooLargeError(Exception):
    """A head has too many bytes or headers."""


class Connection(HttpToolsProtocol):
    """Ends what is too large, too many or too slow, in the one shape of errors.

    Args:
        limits: of all connections.
        uvicorn: what uvicorn gives its connections.
    """

    def __init__(self, limits: ConnectionLimits, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._limits = limits
        self._unsent_bytes, self._stuck_s = 0, 0.0
        self._begin()

    def _begin(self) -> None:
        """Wait for a request."""
        self._receiving, self._in_body = True, False
        self._head_bytes, self._header_count = 0, 0
        self._received_bytes, self._unparsed_bytes, self._waited_s = 0, 0, 0.0

    def connection_made(self, transport: Any) -> None:
        """Take a connection, or refuse it."""
        super().connection_made(transport)
        self._network = network(self.client)
        self._limits.open[self._network] += 1
        self._timer = self.loop.call_later(TICK_S, self._tick)
        if crowd := self._crowd():
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, crowd, {"Retry-After": "1"})

    def _crowd(self) -> str | None:
        """Say which limit this connection is beyond."""
        if len(self.connections) > self._limits.in_all:
            return f"there are {self._limits.in_all} connections, as many as are allowed"
        most = self._limits.of_one_address
        if self._limits.open[self._network] > most:
            return f"{self._network} has {most} connections, as many as are allowed for one address"
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """End the timer with the connection."""
        self._timer.cancel()
        self._limits.open.subtract([self._network])
        if not self._limits.open[self._network]:
            del self._limits.open[self._network]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and count what could not be parsed yet."""
        if not self._receiving:
            self._begin()
        self._received_bytes += len(data)
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._unparsed_bytes > MOST_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """Begin a request; several may come in one piece."""
        if not self._receiving:
            self._begin()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count the address."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header or trailer."""
        self._header_count += 1
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def _count_head(self, size_bytes: int) -> None:
        self._unparsed_bytes = 0
        self._head_bytes += size_bytes
        if self._head_bytes > MOST_HEAD_BYTES or self._header_count > MOST_HEADERS:
            raise HeadTooLargeError

    def on_headers_complete(self) -> None:
        """Go on to the body."""
        self._in_body = True
        super().on_headers_complete()
        if len(self.pipeline) > MOST_PIPELINED:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin to answer a request, unless there is no room for it."""
        shedding, scope = self.app_state.get(SHEDDING), cycle.scope
        refusal = shedding.refusal(scope["method"], scope["path"], scope["headers"]) if shedding else None
        if refusal is None:
            super()._start_asgi_task(cycle, app)
        elif refusal.pause_s:
            self.flow.pause_reading()  # the body stays with the client
            self.loop.call_later(refusal.pause_s, self._answer, cycle, refusal.answer)
        else:
            self._answer(cycle, refusal.answer)

    def _answer(self, cycle: RequestResponseCycle, answer: Response) -> None:
        """Answer in place of the application; what comes of the body afterwards is thrown away."""
        if self.transport.is_closing():
            return
        cycle.response_started = cycle.response_complete = True
        self._write(answer, closes=not cycle.keep_alive)
        self.on_response_complete()

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body."""
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next request."""
        self._receiving, self._unparsed_bytes, self._waited_s = False, 0, 0.0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, in place of uvicorn's text."""
        too_long = max(self._head_bytes, self._unparsed_bytes) > MOST_HEAD_BYTES
        if too_long or self._header_count > MOST_HEADERS:
            detail = f"the head is too large: at most {MOST_HEAD_BYTES} bytes and {MOST_HEADERS} headers are allowed"
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, "what was received is not an HTTP/1.1 request")

    def _tick(self) -> None:
        self._timer = self.loop.call_later(TICK_S, self._tick)
        if self._is_stuck():
            self.transport.abort()
        elif self._is_clients_turn and not self.transport.is_closing():
            self._waited_s += TICK_S
            if self._waited_s > self._allowed_s:
                self._give_up()

    def _is_stuck(self) -> bool:
        """Whether the client has long not read anything of an answer."""
        unsent_bytes = self.transport.get_write_buffer_size()
        self._stuck_s = self._stuck_s + TICK_S if unsent_bytes >= self._unsent_bytes > 0 else 0.0
        self._unsent_bytes = unsent_bytes
        return self._stuck_s > self._limits.timeout_s

    @property
    def _is_clients_turn(self) -> bool:
        if self._receiving:
            return not self.flow.read_paused
        return self._latest is None or self._latest.response_complete

    @property
    def _latest(self) -> RequestResponseCycle | None:
        """The request whose head was complete last; uvicorn sets it to None before the first, though its type denies that."""
        return self.cycle

    @property
    def _is_answered(self) -> bool:
        """Whether the request whose body comes has its answer."""
        return self._in_body and self._latest is not None and self._latest.response_complete

    @property
    def _allowed_s(self) -> float:
        if self._is_answered:
            return DRAIN_S
        return self._limits.timeout_s + self._received_bytes / MIN_BYTES_PER_S

    def _give_up(self) -> None:
        if self._receiving and self._received_bytes:
            detail = (
                f"the request was not complete after {self._waited_s:g} s: its head may take {self._limits.timeout_s:g} s, "
                f"its body a second more for each {MIN_BYTES_PER_S} bytes"
            )
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, detail)
        else:
            self.transport.close()

    @property
    def _may_answer(self) -> bool:
        if self._latest is None:
            return True
        if self._in_body:
            return not self._latest.response_started and not self.pipeline
        return self._latest.response_complete

    def _refuse(self, status: HTTPStatus, detail: str, headers: dict[str, str] | None = None) -> None:
        """Send an error, unless an answer is on its way, and close."""
        if self._may_answer:
            self._write(problem(status, detail, headers=headers), closes=True)
        self.transport.close()

    def _write(self, answer: Response, *, closes: bool) -> None:
        """Send an answer and, if it closes, end the connection behind it."""
        headers = [*answer.raw_headers, (b"connection", b"close")] if closes else answer.raw_headers
        lines = [b"%s: %s\r\n" % header for header in headers]
        self.transport.write(b"".join((STATUS_LINE[answer.status_code], *lines, b"\r\n", bytes(answer.body))))
        if closes:
            self.transport.close()
