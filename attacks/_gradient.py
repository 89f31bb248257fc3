"""Logits and the gradient of a loss with respect to the images: what gradient attacks ask of a model at every step."""

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

WARMUPS = 3
"""Runs before a capture, in which libraries choose their kernels and take their workspaces."""

TOLERANCE = 0.1
"""How far a replay may be from what was computed as it is, over the largest value; kernels round, a broken replay is far off."""

Loss = Any
"""What is to grow: a dataclass that makes losses (N,) of logits (N, K), in float32 at least.

Its tensors have a row for each of N images, its other fields are hashable; an image's loss depends on its own row alone.
"""

_log = logging.getLogger(__name__)


class Seen(NamedTuple):
    """What a model says of N images: logits (N, K), losses (N,) and their gradients with respect to the images (N, C, H, W)."""

    logits: Tensor
    losses: Tensor
    gradient: Tensor


Recorder = Callable[[Callable[[], Seen]], Callable[[], Seen]]
"""Turns a computation on tensors that stay where they are into one that repeats it."""


def look(model: nn.Module, images: Tensor, loss: Loss) -> Seen:
    """Run forward and back to the images. The losses are summed, so that an image's gradient does not shrink with its batch."""
    if isinstance(model, Captured):
        return model(images, loss)
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        logits = model(leaf)
        losses = loss(logits)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return Seen(logits.detach(), losses.detach(), gradient)


def record_on_gpu(run: Callable[[], Seen]) -> Callable[[], Seen]:
    """Capture a CUDA graph as PyTorch asks for it: warmed up on the stream that captures, into tensors that are kept."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUPS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        seen = run()

    def replay() -> Seen:
        graph.replay()
        return seen

    return replay


class Captured(nn.Module):
    """A model on a GPU whose `look` is captured once for each size of batch, then replayed: one launch for all its kernels.

    Batches are padded to the next power of two, or to the largest batch so far. A size is run as it is the first time, and its
    capture must repeat that; a model that cannot be captured, or is not repeated, goes on as it is, with a warning in the log.

    Args:
        model: in evaluation mode, an image's logits independent of its batch; used by one thread, on the current GPU, and neither
            changed nor moved later, for a replay computes with the weights it met.
        record: captures.
    """

    def __init__(self, model: nn.Module, record: Recorder = record_on_gpu) -> None:
        super().__init__()
        self.model, self._record = model, record
        self.training = model.training
        self._captures: dict[Hashable, _Capture] = {}
        self._largest, self._capturable = 0, True

    def forward(self, images: Tensor, loss: Loss = None) -> Tensor | Seen:
        """Logits (N, K) of images (N, C, H, W); with a loss, what `look` returns."""
        if loss is None:
            return self.model(images)
        if not self._capturable:
            return look(self.model, images, loss)
        self._largest = max(self._largest, len(images))
        size = min(1 << (len(images) - 1).bit_length(), self._largest)
        constants = tuple(value for value in _values(loss).values() if not isinstance(value, Tensor))
        key = (size, images.shape[1:], images.dtype, images.device, type(loss), constants)
        if key in self._captures:
            return self._captures[key](images, loss)
        return self._first(key, size, images, loss)

    def _first(self, key: Hashable, size: int, images: Tensor, loss: Loss) -> Seen:
        seen = look(self.model, images, loss)
        reason = "its replay differs from what it computes"
        try:
            capture = _Capture.of(self.model, images, loss, size, self._record)
            if _alike(capture(images, loss), seen):
                self._captures[key] = capture
                return seen
        except RuntimeError as error:  # whatever PyTorch says of a capture, lack of memory too
            cause = error.__context__ or error  # ending a capture that has failed is an error of its own
            reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
        self._capturable = False
        self._captures.clear()
        _log.warning("%s cannot be captured and runs as it is: %s", type(self.model).__name__, reason)
        return seen


@dataclass(frozen=True)
class _Capture:
    """A computation on its own images and loss, which hold a whole batch; rows beyond a smaller one keep what they held."""

    images: Tensor
    loss: Loss
    replay: Callable[[], Seen]

    @classmethod
    def of(cls, model: nn.Module, images: Tensor, loss: Loss, size: int, record: Recorder) -> "_Capture":
        """Record on images and rows of zeros, so that nothing of the real ones can seem to be repeated."""

        def room(tensor: Tensor) -> Tensor:
            return tensor.new_zeros(size, *tensor.shape[1:])

        own = replace(loss, **{name: room(each) for name, each in _values(loss).items() if isinstance(each, Tensor)})
        place = room(images)
        return cls(place, own, record(lambda: look(model, place, own)))

    def __call__(self, images: Tensor, loss: Loss) -> Seen:
        count = len(images)
        self.images[:count].copy_(images)
        for name, own in _values(self.loss).items():
            if isinstance(own, Tensor):
                own[:count].copy_(getattr(loss, name))
        return Seen(*(each[:count].clone() for each in self.replay()))


def _values(loss: Loss) -> dict[str, object]:
    return {field.name: getattr(loss, field.name) for field in fields(loss)}


def _alike(replayed: Seen, computed: Seen) -> bool:
    pairs = zip(replayed, computed, strict=True)
    return all(bool((ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()) for ours, theirs in pairs)
