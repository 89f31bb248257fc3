"""Answers are sent compressed where the client accepts it and it is worth it."""

from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.formats import FORMATS
from service.http.load_shedding import PREDICTING

SMALLEST_BYTES = 1024
"""Shorter answers are sent as they are."""

LEVEL = 5
"""Of zlib, 1 to 9: beyond it a page takes longer to compress and hardly shrinks."""


class Compression(GZipMiddleware):
    """Compresses all but predictions, whose time counts, event streams, which must not wait, and what is compressed already."""

    def __init__(self, app: ASGIApp) -> None:
        compressed = (form.media_type for form in FORMATS if form.compressed)
        excluded = (*DEFAULT_EXCLUDED_CONTENT_TYPES, *compressed)
        super().__init__(app, SMALLEST_BYTES, LEVEL, exclude_content_types=excluded)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, compressed or not."""
        if scope["type"] == "http" and scope["path"].endswith(PREDICTING):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
