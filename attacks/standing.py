"""Removes flipped images from a batch, without waiting for a GPU to report which images are flipped."""

import torch
from torch import Tensor, nn

from attacks.averaged import Averaged
from attacks.task import Proposal


class Standing:
    """The images of a batch that stand (are not flipped yet), and the results for the others.

    On a CPU an image leaves the batch as soon as it is flipped. Asking a GPU which images are flipped would wait for all its queued
    work. So on a GPU each answer is read one step later: an image leaves one step late, and its last step is ignored.

    Args:
        images: the batch, (N, C, H, W).
        late: whether images leave one step late; by default only on a GPU.
        model: the attacked one; where it is randomised, no image leaves: more of its passes may still fall.

    Attributes:
        adversarial: the result for each image, (N, C, H, W); undefined while the image stands.
        steps: number of steps to each result, (N,) int64.
        flipped: which images are flipped, (N,) bool.
    """

    def __init__(self, images: Tensor, *, late: bool | None = None, model: nn.Module | None = None) -> None:
        self.adversarial = torch.empty_like(images)
        self.steps = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        self.flipped = torch.zeros_like(self.steps, dtype=torch.bool)
        self._rows = torch.arange(len(images), device=images.device)
        self._late = images.is_cuda if late is None else late
        self._asked: _Answer | None = None
        self._all_stay = isinstance(model, Averaged)

    def __len__(self) -> int:
        """Number of remaining rows, including flipped ones that have not left yet."""
        return len(self._rows)

    def after(self, step: int, current: Tensor, flipped: Tensor) -> Tensor | None:
        """Record which images are flipped after a step.

        Args:
            step: number of steps so far.
            current: iterates of the remaining rows, (n, C, H, W).
            flipped: which of them are flipped, (n,) bool; values for rows that were flipped before are ignored.

        Returns:
            Indices (m,) of the rows that remain, to select from tensors with n rows; None if all remain.
        """
        if self._all_stay:
            return None
        return self._leave_late(step, current, flipped) if self._late else self._leave(step, current, flipped)

    def end(self, step: int, current: Tensor) -> None:
        """Record the last iterates (n, C, H, W) of the remaining rows, except those flipped before."""
        self._take(step, current, ~self.flipped[self._rows])
        self._rows = self._rows[:0]

    @property
    def proposal(self) -> Proposal:
        """The results for all rows, after `end`."""
        return Proposal(self.adversarial, self.steps)

    def _leave(self, step: int, current: Tensor, flipped: Tensor) -> Tensor | None:
        if not flipped.any():
            return None
        leaving, remaining = flipped.nonzero().squeeze(1), (~flipped).nonzero().squeeze(1)
        rows = self._rows[leaving]
        self.adversarial[rows], self.steps[rows], self.flipped[rows] = current[leaving], step, True
        self._rows = self._rows[remaining]
        return remaining

    def _leave_late(self, step: int, current: Tensor, flipped: Tensor) -> Tensor | None:
        self._take(step, current, flipped & ~self.flipped[self._rows])
        self.flipped[self._rows] |= flipped
        remaining = self._asked and self._asked.remaining(self._rows.device)
        if remaining is not None:
            self._rows = self._rows[remaining]
        self._asked = _Answer(~self.flipped[self._rows])
        return remaining

    def _take(self, step: int, current: Tensor, now: Tensor) -> None:
        self.adversarial[self._rows] = torch.where(now.view(-1, 1, 1, 1), current, self.adversarial[self._rows])
        self.steps[self._rows] = self.steps[self._rows].masked_fill(now, step)


class _Answer:
    """Which rows stand (n,), while this is copied from the device to the host."""

    def __init__(self, standing: Tensor) -> None:
        on_gpu = standing.is_cuda
        self._there = torch.empty(standing.shape, dtype=torch.bool, pin_memory=on_gpu).copy_(
            standing, non_blocking=True
        )
        self._event = torch.cuda.Event() if on_gpu else None
        if self._event:
            self._event.record()

    def remaining(self, device: torch.device) -> Tensor | None:
        """Indices of the rows that stand, None if all do; waits only until this answer is there."""
        if self._event:
            self._event.synchronize()
        if self._there.all():
            return None
        remaining = self._there.nonzero().squeeze(1)
        return (remaining.pin_memory() if self._event else remaining).to(device, non_blocking=True)
