"""Images leave a batch as they fall, without anyone waiting for a GPU to say which."""

import torch
from torch import Tensor

from attacks.task import Proposal


class Standing:
    """The images of a batch that an attack still works on, and where the others ended.

    On a CPU an image leaves as soon as it is flipped. Asking a GPU which images are flipped would wait for all that it has to do:
    there the answer to one question is read when the next is asked, an image leaves one step late, and what became of it
    meanwhile does not count.

    Args:
        images: the batch, (N, C, H, W).
        late: leave one step late; the default is the device's.

    Attributes:
        adversarial: where each image ended, (N, C, H, W); undefined while it stands.
        steps: after how many steps, (N,) int64.
    """

    def __init__(self, images: Tensor, *, late: bool | None = None) -> None:
        self.adversarial = torch.empty_like(images)
        self.steps = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        self.flipped = torch.zeros_like(self.steps, dtype=torch.bool)
        self._rows = torch.arange(len(images), device=images.device)
        self._late = images.is_cuda if late is None else late
        self._asked: _Answer | None = None

    def __len__(self) -> int:
        """How many rows are left, those that have yet to leave included."""
        return len(self._rows)

    def after(self, step: int, current: Tensor, flipped: Tensor) -> Tensor | None:
        """Take in that images are flipped.

        Args:
            step: the number of steps so far.
            current: the iterates of the rows that are left, (n, C, H, W).
            flipped: which of them are flipped, (n,) bool; those that were before may be anything.

        Returns:
            Which rows stay, as indices (m,) for whatever has a row for each of n; None if all stay.
        """
        return self._leave_late(step, current, flipped) if self._late else self._leave(step, current, flipped)

    def end(self, step: int, current: Tensor) -> None:
        """Take in where the rows that are left have come to, (n, C, H, W), unless they were flipped before."""
        self._take(step, current, ~self.flipped[self._rows])
        self._rows = self._rows[:0]

    @property
    def proposal(self) -> Proposal:
        """What came of all rows, after the end."""
        return Proposal(self.adversarial, self.steps)

    def _leave(self, step: int, current: Tensor, flipped: Tensor) -> Tensor | None:
        if not flipped.any():
            return None
        left, kept = flipped.nonzero().squeeze(1), (~flipped).nonzero().squeeze(1)
        rows = self._rows[left]
        self.adversarial[rows], self.steps[rows], self.flipped[rows] = current[left], step, True
        self._rows = self._rows[kept]
        return kept

    def _leave_late(self, step: int, current: Tensor, flipped: Tensor) -> Tensor | None:
        self._take(step, current, flipped & ~self.flipped[self._rows])
        self.flipped[self._rows] |= flipped
        kept = self._asked and self._asked.kept(self._rows.device)
        if kept is not None:
            self._rows = self._rows[kept]
        self._asked = _Answer(~self.flipped[self._rows])
        return kept

    def _take(self, step: int, current: Tensor, now: Tensor) -> None:
        self.adversarial[self._rows] = torch.where(now.view(-1, 1, 1, 1), current, self.adversarial[self._rows])
        self.steps[self._rows] = self.steps[self._rows].masked_fill(now, step)


class _Answer:
    """Which rows stand (n,), on its way from the device to the host."""

    def __init__(self, standing: Tensor) -> None:
        on_gpu = standing.is_cuda
        self._there = torch.empty(standing.shape, dtype=torch.bool, pin_memory=on_gpu).copy_(
            standing, non_blocking=True
        )
        self._event = torch.cuda.Event() if on_gpu else None
        if self._event:
            self._event.record()

    def kept(self, device: torch.device) -> Tensor | None:
        """Indices of the rows that stand, None if all do; waits until the answer has come, and for nothing after it."""
        if self._event:
            self._event.synchronize()
        if self._there.all():
            return None
        kept = self._there.nonzero().squeeze(1)
        return (kept.pin_memory() if self._event else kept).to(device, non_blocking=True)
