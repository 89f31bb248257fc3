"""Work that ends when its client has left."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

T = TypeVar("T")


async def unless_disconnected(request: Request, work: Awaitable[T]) -> T:
    """Wait for work, but cancel it if the client closes the connection first.

    Args:
        request: whose body has been read.
        work: what its client waits for.

    Raises:
        ClientDisconnect: the client has left.
    """
    task, left = asyncio.current_task(), False

    def leave(_watch: "asyncio.Task[None]") -> None:
        nonlocal left
        if task is not None and not over:
            left = task.cancel()

    over = False
    watch = asyncio.ensure_future(_until_disconnected(request))
    watch.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if task is None or not left or task.uncancel():  # the server ends as well
            raise
        raise ClientDisconnect from None
    finally:
        over = True
        watch.cancel()


async def _until_disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
