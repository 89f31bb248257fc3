"""Logits and the gradient of a loss with respect to the images: what gradient attacks compute at every step."""

import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from common.cuda_graphs import RecorderOnGpu, cause_of

TOLERANCE = 0.1
"""Largest difference between a replay and an ordinary pass, relative to the largest value; a broken replay differs by far more."""

SMALLEST_BATCH = 8
"""Number of images in the first batch that is timed."""

WORTHWHILE = 1.05
"""A batch is doubled if it then processes this many times as many images per second."""

MOST_PIXELS = 2**26
"""Height times width times number of images of the largest batch that is timed: 1337 images at 224 x 224."""

CLASSIFIED_PIXELS = 2**23
"""Height times width times number of images that are classified at once: 167 images at 224 x 224."""

COMPILED_TOLERANCE = 0.05
"""Largest difference between the gradients of a compiled model and the model's, as a ratio of root mean squares."""

Loss = Any
"""The loss to increase: a dataclass that computes losses (N,) from logits (N, K), in float32 or wider.

Its tensors have one row per image, its other fields are hashable; an image's loss depends on its own row alone.
"""

_log = logging.getLogger(__name__)


class Seen(NamedTuple):
    """A model's output for N images: logits (N, K), losses (N,) and their gradients with respect to the images (N, C, H, W)."""

    logits: Tensor
    losses: Tensor
    gradient: Tensor


Passes = tuple[Tensor, ...]
"""The result of a computation: the fields of `Seen`, or logits (N, K) alone."""

Recorder = Callable[[Callable[[], Passes]], Callable[[], Passes]]
"""Turns a computation on fixed tensors into one that replays it."""


class OwnPasses(nn.Module):
    """A model whose `forward` takes a loss as well, and then returns the fields of `Seen`."""


def look(model: nn.Module, images: Tensor, loss: Loss) -> Seen:
    """Run forward and backward to the images. Losses are summed, so that an image's gradient does not depend on the batch size."""
    if isinstance(model, OwnPasses):
        return Seen(*model(images, loss))
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        logits = model(leaf)
        losses = loss(logits)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return Seen(logits.detach(), losses.detach(), gradient)


def classify(model: nn.Module, images: Tensor) -> Tensor:
    """Compute logits (N, K) of any number of images (N, C, H, W), without gradients and in parts that fit into memory."""
    part = max(1, CLASSIFIED_PIXELS // images[0, 0].numel())
    with torch.no_grad():
        if len(images) <= part:
            return model(images)
        return torch.cat([model(each) for each in images.split(part)])


def compiled(model: nn.Module) -> nn.Module:
    """Compile a model with torch.compile, once for each batch size; the generated code is cached on disk."""
    return cast(nn.Module, torch.compile(model, dynamic=False))


def fastest_batch(seconds: Callable[[int], float], most: int) -> int:
    """Double a batch until that processes less than 5 % more images per second, or memory runs out.

    Args:
        seconds: returns the time of a batch of a given size; may raise `torch.OutOfMemoryError`.
        most: largest size.
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
    """Time a computation on a device, after one run to warm up."""
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


class Captured(OwnPasses):
    """A model on a GPU whose passes are captured once for each batch size, then replayed: one launch for all its kernels.

    Images pass in batches of one size, which is measured; the last batch is padded to a power of two. The first batch of a size
    runs without a graph, and the captured graph must reproduce it. A model that cannot be captured, or whose replay differs, runs
    without graphs, with a warning in the log. `look` uses the graphs for gradients; other gradients run the model itself.

    Args:
        model: in evaluation mode, with logits that do not depend on the batch; used by one thread on the current GPU. It must not
            be changed or moved later: a replay uses the weights at the time of capture.
        record: captures a computation; by default as a CUDA graph.
        batch: images per batch; measured by default.
        compiler: compiles the model for full batches. The compiled model is used if it is faster and its gradients on the first
            batch agree with the model's; the log says so.
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
        """Compute logits (N, K) of images (N, C, H, W); with a loss, the result of `look`."""
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
                these = images[:1].expand(size, *images.shape[1:]).contiguous()  # their content does not matter
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
        reason = "its replay differs from an ordinary pass"
        try:
            model = self._faster(images, loss, computed) if len(images) == self._batch(images, loss) else self.model
            capture = _Capture.of(model, images, loss, size, self._record)
            if _alike(capture(images, loss), computed):
                self._captures[key] = capture
                return computed
        except RuntimeError as error:  # anything PyTorch raises for a capture, also lack of memory
            cause = cause_of(error)
            reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
        self._capturable = False
        self._captures.clear()
        _log.warning("%s cannot be captured and runs without CUDA graphs: %s", type(self.model).__name__, reason)
        return computed

    def _faster(self, images: Tensor, loss: Loss, computed: Passes) -> nn.Module:
        """The compiled model if it is faster and agrees, otherwise the model."""
        if self._compiler is None or loss is None:
            return self.model
        try:
            compiled = self._compiler(self.model)
            off = _difference(_passes(compiled, images, loss)[-1], computed[-1])
            before, after = (
                seconds_on(images.device, lambda each=each: _passes(each, images, loss))
                for each in (self.model, compiled)
            )
        except Exception as error:  # anything a compiler raises
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
    """Root mean square of the difference, relative to that of the expected gradient."""
    return ((gradient - expected).norm() / expected.norm().clamp(min=torch.finfo(expected.dtype).tiny)).item()


def _passes(model: nn.Module, images: Tensor, loss: Loss) -> Passes:
    if loss is not None:
        return look(model, images, loss)
    with torch.no_grad():
        return (model(images),)


@dataclass(frozen=True)
class _Capture:
    """A computation on its own images and loss, which hold a whole batch; a smaller batch leaves the other rows unchanged."""

    images: Tensor
    loss: Loss
    replay: Callable[[], Passes]

    @classmethod
    def of(cls, model: nn.Module, images: Tensor, loss: Loss, size: int, record: Recorder) -> "_Capture":
        """Record on zeros, so that a replay cannot agree with the real images by merely repeating them."""

        def zeros(tensor: Tensor) -> Tensor:
            return tensor.new_zeros(size, *tensor.shape[1:])

        own_loss, own_images = _each(loss, zeros), zeros(images)
        return cls(own_images, own_loss, record(lambda: _passes(model, own_images, own_loss)))

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
    """The loss with a function applied to each of its tensors."""
    changed = {name: change(each) for name, each in _values(loss).items() if isinstance(each, Tensor)}
    return None if loss is None else replace(loss, **changed)


def _rows(loss: Loss, chosen: slice | Tensor) -> Loss:
    """The loss of some images."""
    return _each(loss, lambda each: each[chosen])


def repeated(loss: Loss, row: int, times: int) -> Loss:
    """The loss of one image, for so many copies of it."""
    return _each(loss, lambda each: each[row].expand(times, *each.shape[1:]))


def _alike(replayed: Passes, computed: Passes) -> bool:
    pairs = zip(replayed, computed, strict=True)
    return all(bool((ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()) for ours, theirs in pairs)
