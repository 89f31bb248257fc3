"""Logits and the gradient of a loss with respect to the images: what gradient attacks ask of a model at every step."""

import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

WARMUPS = 3
"""Runs before a capture, in which libraries choose their kernels and take their workspaces."""

TOLERANCE = 0.1
"""How far a replay may be from what was computed as it is, over the largest value; kernels round, a broken replay is far off."""

SMALLEST_BATCH = 8
"""Images of the first batch that is timed."""

WORTHWHILE = 1.05
"""How many more images a second make it worth to double a batch."""

MOST_PIXELS = 2**26
"""Height times width times images of the largest batch that is timed: 1337 images at 224 x 224."""

CLASSIFIED_PIXELS = 2**23
"""The same of what is classified at once: 167 images at 224 x 224."""

COMPILED_TOLERANCE = 0.05
"""How far gradients of a compiled model may be from the model's, root mean squares over root mean squares."""

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


Passes = tuple[Tensor, ...]
"""What was computed: the fields of `Seen`, or logits (N, K) alone."""

Recorder = Callable[[Callable[[], Passes]], Callable[[], Passes]]
"""Turns a computation on tensors that stay where they are into one that repeats it."""


def look(model: nn.Module, images: Tensor, loss: Loss) -> Seen:
    """Run forward and back to the images. The losses are summed, so that an image's gradient does not shrink with its batch."""
    if isinstance(model, Captured):
        return Seen(*model(images, loss))
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        logits = model(leaf)
        losses = loss(logits)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return Seen(logits.detach(), losses.detach(), gradient)


def classify(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (N, K) of any number of images (N, C, H, W), in parts that fit into memory where no gradient is kept."""
    part = max(1, CLASSIFIED_PIXELS // images[0, 0].numel())
    with torch.no_grad():
        if len(images) <= part:
            return model(images)
        return torch.cat([model(each) for each in images.split(part)])


class RecorderOnGpu:
    """Captures CUDA graphs as PyTorch asks for it: warmed up on the stream that captures, into tensors that are kept.

    All graphs share one pool of memory, for one is replayed at a time and what it computed is copied before the next.
    """

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def __call__(self, run: Callable[[], Passes]) -> Callable[[], Passes]:
        """Capture a computation."""
        self._stream = stream = self._stream or torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUPS):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=stream):
            passes = run()
        self._pool = graph.pool()

        def replay() -> Passes:
            graph.replay()
            return passes

        return replay


def compiled(model: nn.Module) -> nn.Module:
    """Let torch.compile make a model for each size of batch that it meets; what it generates is cached on disk."""
    return cast(nn.Module, torch.compile(model, dynamic=False))


def fastest_batch(seconds: Callable[[int], float], most: int) -> int:
    """Double a batch until that makes less than 5 % more images a second, or memory ends.

    Args:
        seconds: what a batch of some images takes; may raise `torch.OutOfMemoryError`.
        most: images at most.
    """
    size = min(SMALLEST_BATCH, most)
    took = seconds(size)
    while 2 * size <= most:
        try:
            twice = seconds(2 * size)
        except torch.OutOfMemoryError:
            break
        if 2 * took < WORTHWHILE * twice:
            break
        size, took = 2 * size, twice
    return size


def seconds_on(device: torch.device, run: Callable[[], object]) -> float:
    """Time a computation on a device, after one that warms up."""
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


class Captured(nn.Module):
    """A model on a GPU whose passes are captured once for each size of batch, then replayed: one launch for all its kernels.

    Any number of images passes in batches of one size, which is found by measuring; the last is padded to a power of two. A size is
    run as it is the first time, and its capture must repeat that; a model that cannot be captured, or is not repeated, goes on as
    it is, with a warning in the log. Gradients are those of `look`: what else takes them runs the model as it is, all at once.

    Args:
        model: in evaluation mode, an image's logits independent of its batch; used by one thread, on the current GPU, and neither
            changed nor moved later, for a replay computes with the weights it met.
        record: captures; on a GPU without it.
        batch: images that pass at a time; found by measuring without it.
        compiler: makes a faster model of it, for full batches; used where its gradients on the first one are those of the model and
            it is faster, which a line in the log says.
    """

    def __init__(
        self,
        model: nn.Module,
        record: Recorder | None = None,
        *,
        batch: int | None = None,
        compiler: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.model, self._record, self._fixed_batch = model, record or RecorderOnGpu(), batch
        self.training = model.training
        self._captures: dict[Hashable, _Capture] = {}
        self._batches: dict[Hashable, int] = {}
        self._capturable = True
        self._compiler = compiler

    def forward(self, images: Tensor, loss: Loss = None) -> Tensor | Passes:
        """Logits (N, K) of images (N, C, H, W); with a loss, what `look` returns."""
        if loss is None:
            return self.model(images) if torch.is_grad_enabled() else self._in_batches(images, None)[0]
        return self._in_batches(images, loss)

    def _in_batches(self, images: Tensor, loss: Loss) -> Passes:
        size = self._batch(images, loss)
        if len(images) <= size:
            return self._replayed(size, images, loss)
        begins = range(0, len(images), size)
        parts = [self._replayed(size, images[at : at + size], _rows(loss, slice(at, at + size))) for at in begins]
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))

    def _batch(self, images: Tensor, loss: Loss) -> int:
        if self._fixed_batch:
            return self._fixed_batch
        key = (loss is None, images.shape[1:], images.dtype, images.device)
        if key not in self._batches:
            most = max(1, MOST_PIXELS // images[0, 0].numel())

            def seconds(size: int) -> float:
                these = images[:1].expand(size, *images.shape[1:]).contiguous()  # what they show does not matter
                row = torch.zeros(size, dtype=torch.int64, device=images.device)
                return seconds_on(images.device, lambda: _passes(self.model, these, _rows(loss, row)))

            self._batches[key] = fastest_batch(seconds, most)
        return self._batches[key]

    def _replayed(self, most: int, images: Tensor, loss: Loss) -> Passes:
        if not self._capturable:
            return _passes(self.model, images, loss)
        size = min(1 << (len(images) - 1).bit_length(), most)
        constants = tuple(value for value in _values(loss).values() if not isinstance(value, Tensor))
        key = (size, images.shape[1:], images.dtype, images.device, type(loss), constants)
        if key in self._captures:
            return self._captures[key](images, loss)
        return self._first(key, size, images, loss)

    def _first(self, key: Hashable, size: int, images: Tensor, loss: Loss) -> Passes:
        computed = _passes(self.model, images, loss)
        reason = "its replay differs from what it computes"
        try:
            model = self._faster(images, loss, computed) if len(images) == self._batch(images, loss) else self.model
            capture = _Capture.of(model, images, loss, size, self._record)
            if _alike(capture(images, loss), computed):
                self._captures[key] = capture
                return computed
        except RuntimeError as error:  # whatever PyTorch says of a capture, lack of memory too
            cause = error.__context__ or error  # ending a capture that has failed is an error of its own
            reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
        self._capturable = False
        self._captures.clear()
        _log.warning("%s cannot be captured and runs as it is: %s", type(self.model).__name__, reason)
        return computed

    def _faster(self, images: Tensor, loss: Loss, computed: Passes) -> nn.Module:
        """The compiled model where that pays, else the model."""
        if self._compiler is None or loss is None:
            return self.model
        try:
            compiled = self._compiler(self.model)
            off = _difference(_passes(compiled, images, loss)[-1], computed[-1])
            before, after = (
                seconds_on(images.device, lambda each=each: _passes(each, images, loss))
                for each in (self.model, compiled)
            )
        except Exception as error:  # whatever a compiler raises
            found, chosen = f"{type(error).__name__}: {error}".splitlines()[0], self.model
        else:
            used = off <= COMPILED_TOLERANCE and after < before
            chosen = compiled if used else self.model
            found = f"gradients differ by {off:.2g}, {before / after:.2f} times as fast"
        _log.info(
            "%s, compiled, is %s: %s",
            type(self.model).__name__,
            "used" if chosen is not self.model else "not used",
            found,
        )
        return chosen


def _difference(gradient: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of what was expected."""
    return ((gradient - expected).norm() / expected.norm().clamp(min=torch.finfo(expected.dtype).tiny)).item()


def _passes(model: nn.Module, images: Tensor, loss: Loss) -> Passes:
    if loss is not None:
        return look(model, images, loss)
    with torch.no_grad():
        return (model(images),)


@dataclass(frozen=True)
class _Capture:
    """A computation on its own images and loss, which hold a whole batch; rows beyond a smaller one keep what they held."""

    images: Tensor
    loss: Loss
    replay: Callable[[], Passes]

    @classmethod
    def of(cls, model: nn.Module, images: Tensor, loss: Loss, size: int, record: Recorder) -> "_Capture":
        """Record on images and rows of zeros, so that nothing of the real ones can seem to be repeated."""

        def room(tensor: Tensor) -> Tensor:
            return tensor.new_zeros(size, *tensor.shape[1:])

        own, place = _each(loss, room), room(images)
        return cls(place, own, record(lambda: _passes(model, place, own)))

    def __call__(self, images: Tensor, loss: Loss) -> Passes:
        count = len(images)
        self.images[:count].copy_(images)
        for name, own in _values(self.loss).items():
            if isinstance(own, Tensor):
                own[:count].copy_(getattr(loss, name))
        return tuple(each[:count].clone() for each in self.replay())


def _values(loss: Loss) -> dict[str, object]:
    return {} if loss is None else {field.name: getattr(loss, field.name) for field in fields(loss)}


def _each(loss: Loss, change: Callable[[Tensor], Tensor]) -> Loss:
    """The loss with its tensors changed."""
    changed = {name: change(each) for name, each in _values(loss).items() if isinstance(each, Tensor)}
    return None if loss is None else replace(loss, **changed)


def _rows(loss: Loss, chosen: slice | Tensor) -> Loss:
    """The loss of some images."""
    return _each(loss, lambda each: each[chosen])


def _alike(replayed: Passes, computed: Passes) -> bool:
    pairs = zip(replayed, computed, strict=True)
    return all(bool((ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()) for ours, theirs in pairs)
