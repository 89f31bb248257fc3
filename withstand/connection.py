"""How both clients connect."""

from typing import Any

TIMEOUT_S = 60.0
"""Longest silence during one try of a request, seconds."""

PATIENCE_S = 30.0
"""How long a request is tried again, seconds."""


def connection(url: str, api_key: str | None, timeout_s: float) -> dict[str, Any]:
    """Give the arguments of httpx's clients.

    Raises:
        ValueError: the address is none of HTTP.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"the address of a service begins with http:// or https://, got {url!r}")
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    return {"base_url": url, "headers": headers, "timeout": timeout_s}
