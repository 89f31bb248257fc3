"""Spans of predictions: where the time of a request went."""

import time
from collections.abc import Sequence

from opentelemetry.util.types import AttributeValue

from common.pictures import PictureError
from service import tracing
from service.serving.deployments import Deployment
from service.serving.queue import Answer


def record_answers(deployment: Deployment, answers: Sequence[Answer | PictureError]) -> None:
    """Record the stages of the picture that its request waited for longest, from its place in the queue to the end of its batch.

    Its stages follow each other without a gap, and the waits, both named `queue`, add up to its `queue_s`.
    """
    if not tracing.is_recording():
        return
    good = [each for each in answers if isinstance(each, Answer)]
    if not good:
        return
    last = max(good, key=lambda each: (each.forward_at + each.forward_s, each.prepared_at))
    since_1970_ns = time.time_ns() - round(1e9 * time.perf_counter())
    of_model: dict[str, AttributeValue] = {
        "withstand.model": deployment.name,
        "withstand.version": deployment.version,
        "withstand.images": len(answers),
    }
    nothing: dict[str, AttributeValue] = {}
    of_batch: dict[str, AttributeValue] = {"withstand.batch_images": last.batch_images}
    stages = (
        ("queue", last.queued_at, last.decoding_at, nothing),
        ("decode", last.decoding_at, last.prepared_at, nothing),
        ("queue", last.prepared_at, last.forward_at, nothing),
        ("forward", last.forward_at, last.forward_at + last.forward_s, of_batch),
    )
    for name, began, ended, more in stages:
        began_ns, ended_ns = (since_1970_ns + round(1e9 * each) for each in (began, ended))
        tracing.record(name, of_model | more, began_ns=began_ns, ended_ns=ended_ns)
