"""Square attack: random search with squares, without any gradient."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacks.averaged import Averaged, mean_losses
from attacks.methods.square_search import Pyramids, Search, Squares
from attacks.norms import moved
from attacks.registry import register_attack
from attacks.standing import Standing
from attacks.task import Norm, Proposal, Task

SCHEDULE = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, out of 10,000, after which the share of changed pixels is halved (Sec. 4.1 and the authors' code)."""

BLOCK = 256
"""Queries whose random numbers are drawn at once: a call for each would take as long as a small model."""


@register_attack("square")
@dataclass(frozen=True, kw_only=True)
class Square:
    """Square attack in Linf and L2 (Andriushchenko et al. 2020, arXiv:1912.00049, Alg. 1 to 3).

    A random change of a square window is accepted if it shrinks the margin between the label and the best other class. No gradient
    is used, so hidden gradients do not hinder the attack. See `Squares` for the changes in Linf, `Pyramids` for those in L2.

    Two differences from AutoAttack's code make the attack stronger. Windows may reach the last row and column; AutoAttack's end one
    short. The schedule of their sizes is rescaled from 10,000 queries to the given number, as in the paper; AutoAttack's 5000
    queries end with windows that are still large. `variant` "autoattack" does both as AutoAttack does.

    Each image has its own windows, whatever the batch; flipped images leave the batch. If the model is randomised, a query compares
    the changed image and the best one on the same random numbers, which are others at every query: a best image that was only
    lucky does not stay. `p_init` is that of AutoAttack (Croce and
    Hein 2020, arXiv:2003.01690) in both norms; the paper has 0.05 in Linf and 0.1 in L2.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})
    targetable: ClassVar[bool] = False
    uses_gradient: ClassVar[bool] = False
    pairs: ClassVar[bool] = True

    queries: Annotated[int, Field(ge=1, le=1_000_000, description="largest number of forward passes per image")] = 5000
    p_init: Annotated[float, Field(gt=0, le=1, description="share of pixels that the first squares change")] = 0.8
    variant: Annotated[
        Literal["rescaled", "autoattack"],
        Field(description="rescaled schedule and windows up to the edges, or both as in AutoAttack"),
    ] = "rescaled"

    @property
    def title(self) -> str:
        """For example "Square-5000" or "Square-5000 (autoattack)"."""
        return f"Square-{self.queries}" + (" (autoattack)" if self.variant == "autoattack" else "")

    @property
    def passes(self) -> int:
        """One per query."""
        return self.queries

    def perturb(self, task: Task) -> Proposal:
        """See `Attack.perturb`."""
        model, images, labels, draws = task.model, task.images, task.labels, task.draws
        norm, eps = task.threat.norm, task.threat.eps
        kind = Squares if norm is Norm.LINF else Pyramids
        search: Search = kind(eps, to_edge=self.variant == "rescaled")
        best = moved(images, search.start(images, draws.stream(0)), norm, eps)
        margin = mean_losses(model, best, _Margin(labels))
        numbers, drawn = search.numbers + images.shape[1], images[:, :0]
        standing = Standing(images, model=model)
        for query in range(1, self.queries):
            remaining = standing.after(query, best, margin < 0)
            if remaining is not None:
                best, margin, images, labels = (each[remaining] for each in (best, margin, images, labels))
                drawn, draws = drawn[remaining], draws[remaining]
            if not len(standing):
                break
            if (at := (query - 1) % BLOCK) == 0:
                drawn = draws.stream(query).uniform(images.new_empty(len(images), BLOCK, numbers, dtype=torch.float32))
            side = search.side(self._share(query), *images.shape[-2:])
            difference = search.changed(images, best, drawn[:, at], side)
            proposed = moved(images, difference, norm, eps)
            if isinstance(model, Averaged):
                both, twice = torch.cat([best, proposed]), _Margin(labels.repeat(2))
                margin, after = mean_losses(model, both, twice).chunk(2)
            else:
                after = mean_losses(model, proposed, _Margin(labels))
            better = after < margin
            torch.where(better.view(-1, 1, 1, 1), proposed, best, out=best)
            margin = torch.where(better, after, margin)
        standing.end(self.queries, best)
        return Proposal(standing.adversarial)

    def _share(self, query: int) -> float:
        """Share of the pixels that a query changes: p of the paper, halved according to the schedule."""
        as_counted = query - 1  # AutoAttack does not count the start
        of_ten_thousand = as_counted if self.variant == "autoattack" else int(query / self.queries * 10_000)
        return self.p_init / 2 ** sum(of_ten_thousand > bound for bound in SCHEDULE)


@dataclass(frozen=True)
class _Margin:
    """Logit of the label (N,) minus the largest other; negative where misclassified."""

    labels: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        at_label = self.labels.unsqueeze(1)
        of_label = logits.gather(1, at_label).squeeze(1)
        margin = of_label - logits.scatter(1, at_label, -torch.inf).amax(1)
        wrong = logits.argmax(1) != self.labels  # a tie goes to the smaller class
        return torch.where(wrong, margin.clamp(max=-torch.finfo(margin.dtype).tiny), margin.clamp(min=0))
