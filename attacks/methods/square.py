"""Square attack: random search with squares, without any gradient."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.methods.square_search import Pyramids, Search, Squares
from attacks.norms import moved
from attacks.registry import register_attack
from attacks.standing import Standing
from attacks.task import Norm, Proposal, Task

SCHEDULE = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Of 10,000 queries, those after which the share of changed pixels is halved (Sec. 4.1 and the authors' code)."""

BLOCK = 256
"""Queries whose numbers are drawn at once: a call for each would take as long as a small model does."""


@register_attack("square")
@dataclass(frozen=True, kw_only=True)
class Square:
    """Square attack in Linf and L2 (Andriushchenko et al. 2020, arXiv:1912.00049, Alg. 1 to 3).

    A random change of a square window is kept where the margin of the label over the best other class shrinks. No gradient is
    used, so what hides gradients does not hinder it. See `Squares` for what changes in Linf, `Pyramids` for L2.

    Two things differ from AutoAttack's code and make the attack stronger: windows may reach the last row and column, where its
    windows end one short, and the schedule of their sizes is rescaled from 10,000 queries to the number given, as in the paper,
    where its first 5000 queries end with windows still large. `variant` "autoattack" does both as AutoAttack does.

    Each image has its own windows, whatever the batch; images that were flipped leave it. `p_init` is that of AutoAttack (Croce
    and Hein 2020, arXiv:2003.01690) in both norms; the paper has 0.05 in Linf and 0.1 in L2.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})
    targetable: ClassVar[bool] = False
    uses_gradient: ClassVar[bool] = False

    queries: Annotated[int, Field(ge=1, le=1_000_000, description="forward passes of an image at most")] = 5000
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
        """One a query."""
        return self.queries

    def perturb(self, task: Task) -> Proposal:
        """See `Attack.perturb`."""
        model, images, labels, draws = task.model, task.images, task.labels, task.draws
        norm, eps = task.threat.norm, task.threat.eps
        kind = Squares if norm is Norm.LINF else Pyramids
        search: Search = kind(eps, to_edge=self.variant == "rescaled")
        best = moved(images, search.start(images, draws.stream(0)), norm, eps)
        margin = _margin(model, best, labels)
        numbers, drawn = search.numbers + images.shape[1], images[:, :0]
        standing = Standing(images)
        for query in range(1, self.queries):
            kept = standing.after(query, best, margin < 0)
            if kept is not None:
                best, margin, images, labels, drawn = (each[kept] for each in (best, margin, images, labels, drawn))
                draws = draws[kept]
            if not len(standing):
                break
            if (at := (query - 1) % BLOCK) == 0:
                drawn = draws.stream(query).uniform(images.new_empty(len(images), BLOCK, numbers, dtype=torch.float32))
            side = search.side(self._share(query), *images.shape[-2:])
            difference = search.changed(images, best, drawn[:, at], side)
            proposed = moved(images, difference, norm, eps)
            after = _margin(model, proposed, labels)
            better = after < margin
            torch.where(better.view(-1, 1, 1, 1), proposed, best, out=best)
            margin = torch.where(better, after, margin)
        standing.end(self.queries, best)
        return Proposal(standing.adversarial)

    def _share(self, query: int) -> float:
        """Share of the pixels that a query changes: p of the paper, halved as the schedule says."""
        as_counted = query - 1  # AutoAttack leaves the start out
        of_ten_thousand = as_counted if self.variant == "autoattack" else int(query / self.queries * 10_000)
        return self.p_init / 2 ** sum(of_ten_thousand > bound for bound in SCHEDULE)


def _margin(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Logit of the label minus the largest other (N,); negative where misclassified."""
    with torch.no_grad():
        logits = model(images)
    at_label = labels.unsqueeze(1)
    of_label = logits.gather(1, at_label).squeeze(1)
    margin = of_label - logits.scatter(1, at_label, -torch.inf).amax(1)
    wrong = logits.argmax(1) != labels  # a tie goes to the smaller class
    return torch.where(wrong, margin.clamp(max=-torch.finfo(margin.dtype).tiny), margin.clamp(min=0))
