"""A small client of the service's HTTP interface."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx


class ClientError(RuntimeError):
    """The service answered with an error or not at all. The message has the reason; `problem` has the body of the answer."""

    def __init__(self, message: str, problem: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.problem = problem or {}


class Client:
    """A connection to a running service.

    Args:
        url: its address, such as "http://127.0.0.1:8000", or "https://example.org/prefix" behind a reverse proxy.
        api_key: sent with every request, if there is one.
        timeout_s: longest wait for an answer, seconds.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 60.0) -> None:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self.url = url
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def ready(self) -> bool:
        """Whether the service is ready for requests."""
        try:
            return self._http.get("/readyz").is_success
        except httpx.HTTPError:
            return False

    def explain(
        self, model: str, picture: bytes, *, layer: str | None = None, query: tuple[float, float] | None = None
    ) -> dict[str, Any]:
        """Show which places in a picture a layer's attention weights most.

        Args:
            model: name of a checkpoint.
            picture: content of a picture file.
            layer: path of an attention layer in the network; the last one by default.
            query: place whose attention is shown, (y, x) as fractions of the cropped picture; all places by default.

        Raises:
            ClientError: the service refused.
        """
        place = None if query is None else f"{query[0]},{query[1]}"
        given = {name: value for name, value in (("layer", layer), ("query", place)) if value is not None}
        return self._json("POST", f"/v1/models/{model}/explain", content=picture, params=given)

    def add_model(
        self, file: Path, *, name: str | None = None, card: dict[str, Any] | None = None, accept_likely: bool = False
    ) -> dict[str, Any]:
        """Upload a checkpoint, and the hub's `config.json` if it is in the same folder; returns the added model.

        Raises:
            ClientError: the service refused; `problem` has its answer, with the open questions if there are any.
        """
        config = file.with_name("config.json")
        data = {
            "name": name,
            "card": json.dumps(card or {}),
            "config": config.read_bytes() if config.is_file() else None,
            "accept_likely": str(accept_likely).lower(),
        }
        given = {key: value for key, value in data.items() if value is not None}
        with file.open("rb") as content:
            return self._json("POST", "/v1/models", data=given, files={"file": (file.name, content)}, timeout=None)

    def remove_model(self, name: str) -> None:
        """Remove an added model.

        Raises:
            ClientError: there is no such model, it was not added, or an evaluation needs it.
        """
        self._send("DELETE", f"/v1/models/{name}")

    def evaluations(self) -> list[dict[str, Any]]:
        """List all evaluations, newest first."""
        found: list[dict[str, Any]] = []
        asked: dict[str, Any] = {"limit": 200}
        while True:
            page = self._json("GET", "/v1/evaluations", params=asked)
            found += page["evaluations"]
            if page["next_cursor"] is None:
                return found
            asked["cursor"] = page["next_cursor"]

    def remove_evaluation(self, evaluation_id: str) -> dict[str, Any]:
        """Remove an evaluation and its results for good; returns its last state.

        Raises:
            ClientError: there is no such evaluation, or it has not ended.
        """
        return self._json("DELETE", f"/v1/evaluations/{evaluation_id}", params={"results": True})

    def control_evaluation(self, evaluation_id: str, action: str) -> dict[str, Any]:
        """Let an evaluation `pause`, `resume` or `retry`; returns its state.

        Raises:
            ClientError: there is no such evaluation, where it stands that cannot be done, or the key may not do it; also below.
        """
        return self._json("POST", f"/v1/evaluations/{evaluation_id}/{action}")

    def cancel_evaluation(self, evaluation_id: str) -> dict[str, Any]:
        """Drop what is not finished of an evaluation; returns its state."""
        return self._json("DELETE", f"/v1/evaluations/{evaluation_id}")

    def prioritise_evaluation(self, evaluation_id: str, priority: str) -> dict[str, Any]:
        """Change the priority of an evaluation to low, normal or high; returns its state."""
        return self._json("PUT", f"/v1/evaluations/{evaluation_id}/priority", json={"priority": priority})

    def limit_evaluation(
        self, evaluation_id: str, *, max_devices: int | None = None, max_hours: float | None = None
    ) -> dict[str, Any]:
        """Change how many devices may run an evaluation, and for how long; None is no limit. Returns its state."""
        limits = {"max_devices": max_devices, "max_hours": max_hours}
        return self._json("PUT", f"/v1/evaluations/{evaluation_id}/limits", json=limits)

    def queue(self) -> dict[str, Any]:
        """Fetch what runs and what waits."""
        return self._json("GET", "/v1/queue", params={"limit": 1000})

    def control_queue(self, action: str) -> dict[str, Any]:
        """Let the whole queue `pause` or `resume`; returns it."""
        return self._json("POST", f"/v1/queue/{action}")

    def devices(self) -> dict[str, Any]:
        """Fetch the devices that run evaluations."""
        return self._json("GET", "/v1/devices")

    def submit(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Submit an evaluation; returns its state, with its `id`."""
        return self._json("POST", "/v1/evaluations", json=spec)

    def evaluation(self, evaluation_id: str) -> dict[str, Any]:
        """Fetch an evaluation, with its report so far."""
        return self._json("GET", f"/v1/evaluations/{evaluation_id}")

    def watch(self, evaluation_id: str) -> Iterator[dict[str, Any]]:
        """Yield the state of an evaluation after every change, until it has ended.

        Raises:
            ClientError: the service refused, or the connection broke.
        """
        try:
            with self._http.stream("GET", f"/v1/evaluations/{evaluation_id}/events", timeout=None) as answer:
                if answer.is_error:
                    answer.read()
                    raise ClientError(_reason(answer))
                for line in answer.iter_lines():
                    if line.startswith("data:"):
                        yield json.loads(line.removeprefix("data:"))
        except httpx.HTTPError as error:
            raise ClientError(f"the connection to the service broke: {error}") from error

    def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        return self._send(method, path, **request).json()

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **request)
        except httpx.HTTPError as error:
            raise ClientError(f"no answer from {self.url}: {error}") from error
        if answer.is_error:
            is_problem = answer.headers.get("content-type") == "application/problem+json"
            raise ClientError(_reason(answer), answer.json() if is_problem else None)
        return answer


def _reason(answer: httpx.Response) -> str:
    try:
        return f"{answer.status_code}: {answer.json()['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code}: {answer.text[:200]}"
