"""A request as data, and how both clients make methods of the functions that describe one."""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, Protocol, Self, TypeVar, overload

import httpx

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)
Parameters = ParamSpec("Parameters")


class File(NamedTuple):
    """A part of a form: the name of its field, that of the file, and the content or where it is."""

    field: str
    name: str
    content: bytes | Path


@dataclass(frozen=True, kw_only=True)
class Request(Generic[Result_co]):
    """What is asked of the service.

    Attributes:
        method: of HTTP.
        path: below the address of the service.
        read: reads the result from an answer that is no error.
        params: of the query; None leaves one out.
        json: the body, if there is one.
        form: fields of a form, if there is one.
        files: of that form; files are opened when the request is sent.
        headers: beside those of every request.
        untimed: whether the answer may take any time, such as after an upload.
        repeatable: whether it may be sent twice; by default as its method says.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], Result_co]
    params: Mapping[str, object] = field(default_factory=dict[str, object])
    json: Any = None
    form: Mapping[str, str | bytes] | None = None
    files: Sequence[File] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    untimed: bool = False
    repeatable: bool | None = None

    @property
    def may_repeat(self) -> bool:
        """Whether it may be sent twice: it changes nothing, the second time changes nothing, or the service recognises it."""
        if self.repeatable is not None:
            return self.repeatable
        return self.method in {"GET", "PUT", "DELETE"} or "Idempotency-Key" in self.headers

    @contextmanager
    def arguments(self) -> Generator[dict[str, Any]]:
        """Give the arguments of `httpx.Client.request`, with files that are open until the block ends."""
        with ExitStack() as stack:
            parts = [
                (
                    each.field,
                    (
                        each.name,
                        stack.enter_context(each.content.open("rb"))
                        if isinstance(each.content, Path)
                        else each.content,
                    ),
                )
                for each in self.files
            ]
            optional = {"json": self.json, "data": self.form, "files": parts or None}
            yield {
                "method": self.method,
                "url": self.path,
                "params": {name: value for name, value in self.params.items() if value is not None},
                "headers": self.headers,
                **({"timeout": None} if self.untimed else {}),
                **{name: value for name, value in optional.items() if value is not None},
            }


class Sends(Protocol):
    """Sends requests and waits for their answers."""

    def send(self, request: Request[Result]) -> Result:
        """Send a request."""
        ...


class SendsAsync(Protocol):
    """Sends requests while others are waiting for theirs."""

    async def send(self, request: Request[Result]) -> Result:
        """Send a request."""
        ...


class Route(Generic[Parameters, Result]):
    """Makes a method of a function that describes a request: with its parameters, it sends the request and gives the result.

    One table of routes serves the clients with and without asyncio; a type checker knows parameters and results in both.
    """

    def __init__(self, describe: Callable[Parameters, Request[Result]]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, sender: None, owner: type) -> Self: ...
    @overload
    def __get__(self, sender: Sends, owner: type) -> Callable[Parameters, Result]: ...
    @overload
    def __get__(self, sender: SendsAsync, owner: type) -> Callable[Parameters, Awaitable[Result]]: ...
    def __get__(self, sender: Any, owner: type) -> Any:
        """Bind the route to a client."""
        if sender is None:
            return self

        @wraps(self._describe)
        def ask(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Any:
            return sender.send(self._describe(*args, **kwargs))

        return ask


class JobRoute(Generic[Parameters, Result]):
    """Makes a method of a job of a function that describes a request about an evaluation: its id comes from the job."""

    def __init__(self, describe: Callable[Concatenate[str, Parameters], Request[Result]]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, job: None, owner: type) -> Self: ...
    @overload
    def __get__(self, job: Sends, owner: type) -> Callable[Parameters, Result]: ...
    @overload
    def __get__(self, job: SendsAsync, owner: type) -> Callable[Parameters, Awaitable[Result]]: ...
    def __get__(self, job: Any, owner: type) -> Any:
        """Bind the route to a job."""
        if job is None:
            return self

        @wraps(self._describe)
        def ask(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Any:
            return job.send(self._describe(job.id, *args, **kwargs))

        return ask
