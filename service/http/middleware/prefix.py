"""The path prefix at which a reverse proxy serves the application."""

from starlette.types import ASGIApp, Receive, Scope, Send


class Prefix:
    """Gives every path the prefix, as ASGI asks for: some reverse proxies pass it on, others strip it.

    Args:
        app: what is behind it.
        root_path: such as "/withstand"; empty for none.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app, self._root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on with the prefix."""
        if scope["type"] == "http":
            scope["root_path"] = self._root_path
            if not f"{scope['path']}/".startswith(f"{self._root_path}/"):
                scope["path"] = self._root_path + scope["path"]
            if scope["path"] == self._root_path:  # the first page, without its slash
                scope["path"] += "/"
        await self._app(scope, receive, send)
