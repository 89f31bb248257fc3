"""Spans of OpenTelemetry, made when their work is over, from the times that were measured anyway.

FastAPI makes the span of a request and sets up the exporter that the variables `OTEL_*` ask for. Without one no span is made.
"""

import json
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.trace import StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

_W3C = TraceContextTextMapPropagator()


def is_recording() -> bool:
    """Whether the work at hand belongs to a span that is recorded."""
    return trace.get_current_span().is_recording()


def current_trace() -> str | None:
    """The W3C trace context of the work at hand, as text that can be stored; None if it is not recorded."""
    if not is_recording():
        return None
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return json.dumps(carrier)


def trace_id(context: str | None = None) -> str | None:
    """The id of a stored trace context, or of the work at hand; None if it is not recorded."""
    stored = None if context is None else _W3C.extract(json.loads(context))
    span = trace.get_current_span(stored).get_span_context()
    return trace.format_trace_id(span.trace_id) if span.is_valid and span.trace_flags.sampled else None


def record(
    name: str,
    attributes: Mapping[str, AttributeValue],
    *,
    began_ns: int,
    ended_ns: int,
    parent: str | None = None,
    error: str | None = None,
) -> None:
    """Record a span that is over.

    Args:
        name: of the kind of work.
        attributes: what it worked on.
        began_ns: nanoseconds since 1970, UTC.
        ended_ns: the same.
        parent: a stored trace context; None is the work at hand.
        error: what failed.
    """
    context = None if parent is None else _W3C.extract(json.loads(parent))
    span = trace.get_tracer("withstand").start_span(name, context, attributes=attributes, start_time=began_ns)
    if error is not None:
        span.set_status(StatusCode.ERROR, error)
    span.end(ended_ns)
