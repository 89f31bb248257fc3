"""The event stream of an evaluation, across connections that break."""

import json

from withstand.answers import ENDED, EvaluationView
from withstand.errors import ClientError
from withstand.retries import Backoff

SILENCE_S = 45.0
"""A stream on which nothing comes for so long is broken, seconds. The service sends a comment every 15 s."""


class EventStream:
    """Reads states from lines, and knows which state a new connection has to go on from.

    Args:
        evaluation_id: of the evaluation.
        patience_s: how long to try to reconnect, seconds.
    """

    def __init__(self, evaluation_id: str, patience_s: float) -> None:
        self.path = f"/v1/evaluations/{evaluation_id}/events"
        self.ended = False
        self._patience_s = patience_s
        self._backoff = Backoff(patience_s)
        self._event: dict[str, str] = {}
        self._last_id = ""

    def headers(self) -> dict[str, str]:
        """Begin a connection; gives the headers of its request."""
        self._event = {}
        return {"Last-Event-ID": self._last_id} if self._last_id else {}

    def state_in(self, line: str) -> EvaluationView | None:
        """Read a line; gives the state where the line ends an event."""
        self._backoff = Backoff(self._patience_s)  # the connection works
        if line:
            name, _, value = line.partition(":")
            self._event[name] = value.removeprefix(" ")
            return None
        event, self._event = self._event, {}
        if "data" not in event:  # a comment that keeps the connection alive
            return None
        state: EvaluationView = json.loads(event["data"])
        self._last_id, self.ended = event.get("id", self._last_id), state["status"] in ENDED
        return state

    def require_end(self) -> None:
        """Raise `ClientError` if the stream stopped before the evaluation ended."""
        if not self.ended:
            raise ClientError("the service closed the event stream before the evaluation ended")

    def pause_s(self, error: ClientError) -> float:
        """Say how long to wait before reconnecting, seconds; raises the error if that would not help."""
        return self._backoff.pause_s(error)


def require_done(state: EvaluationView) -> None:
    """Raise `ClientError` if an evaluation ended otherwise."""
    if state["status"] != "done":
        reason = f": {state['error']}" if state["error"] else ""
        raise ClientError(f"evaluation {state['id']} ended as {state['status']}{reason}")
