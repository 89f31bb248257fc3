"""Fast adaptive boundary attack: searches the smallest change that reaches the decision boundary."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.gradient import look
from attacks.norms import GRADIENT_NORMS, distance
from attacks.registry import register_attack
from attacks.standing import Standing
from attacks.task import Norm, Proposal, Task, ThreatModel

_TINY = 1e-8


@register_attack("fab")
@dataclass(frozen=True, kw_only=True)
class FAB:
    """Targeted fast adaptive boundary attack (Croce, Hein 2020, arXiv:1907.02044): FAB-T of AutoAttack.

    Each step linearises the difference between the logits of a target and of the label. It projects both the iterate and the clean
    image onto the hyperplane where this is zero, within [0, 1]. A misclassified iterate is moved back towards the clean image. The
    targets are the likeliest wrong classes in turn; each run starts at the clean image, and nothing is random.

    An image for which no change within the budget is found is returned unchanged. Deviations: an image leaves the batch at its
    first misclassified iterate within the budget, which changes no verdict; as in AutoAttack, there is no final search.
    """

    norms: ClassVar[frozenset[Norm]] = GRADIENT_NORMS
    targetable: ClassVar[bool] = False
    kind: ClassVar[Literal["budget", "minimal"]] = "minimal"
    uses_gradient: ClassVar[bool] = True
    of_randomised: ClassVar[str] = (
        "stops at the smallest change that flips the mean logits of a randomised model, where about half of its passes are wrong"
    )

    steps: Annotated[int, Field(ge=1, le=10_000, description="gradient steps towards a target")] = 100
    targets_tried: Annotated[int, Field(ge=1, le=1_000, description="wrong classes aimed for, likeliest first")] = 9
    alpha_max: Annotated[float, Field(ge=0, le=1, description="largest weight of the clean image's projection")] = 0.1
    eta: Annotated[float, Field(ge=1, le=10, description="length of a step relative to the hyperplane's distance")] = (
        1.05
    )
    beta: Annotated[
        float, Field(gt=0, le=1, description="share of the change that remains when a misclassified iterate moves back")
    ] = 0.9

    @property
    def title(self) -> str:
        """For example "FAB-T-100"."""
        return f"FAB-T-{self.steps}"

    @property
    def passes(self) -> int:
        """Four per step (three for the gradient, one for the verdict), and one for the ranking of the classes."""
        return 4 * self.steps * self.targets_tried + 1

    def perturb(self, task: Task) -> Proposal:
        """See `Attack.perturb`."""
        model, images, labels, threat = task.model, task.images, task.labels, task.threat
        with torch.no_grad():
            logits = model(images)
        ranking = logits.scatter(1, labels.unsqueeze(1), -torch.inf).argsort(1, descending=True)
        adversarial, steps = images.clone(), torch.zeros_like(labels)
        standing = (logits.argmax(1) == labels).nonzero().squeeze(1)
        for aims in ranking[:, : min(self.targets_tried, ranking.shape[1] - 1)].unbind(1):
            if not len(standing):
                break
            gap = _Gap(labels[standing], aims[standing])
            found, taken, flipped = self._towards(model, images[standing], gap, threat)
            adversarial[standing] = found
            steps[standing] += taken
            standing = standing[~flipped]
        return Proposal(adversarial, steps)

    def _towards(
        self, model: nn.Module, images: Tensor, gap: "_Gap", threat: ThreatModel
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run towards one target each; returns images (N, C, H, W), the steps to each (N,), and which are flipped (N,)."""
        standing, current = Standing(images), images
        for step in range(1, self.steps + 1):
            current = self._step(model, images, current, gap, threat.norm)
            with torch.no_grad():
                wrong = model(current).argmax(1) != gap.labels
            hit = wrong & (distance(current - images, threat.norm) <= threat.eps)
            remaining = standing.after(step, current, hit)
            if remaining is not None:
                images, current, wrong = (each[remaining] for each in (images, current, wrong))
                gap = gap.of_images(remaining)
                if not len(standing):
                    break
            current = torch.where(_spread(wrong), images + self.beta * (current - images), current)
        standing.end(self.steps, images)
        return standing.adversarial, standing.steps, standing.flipped

    def _step(self, model: nn.Module, images: Tensor, current: Tensor, gap: "_Gap", norm: Norm) -> Tensor:
        """The next iterate, between the projections of the current one and of the clean image."""
        _, gaps, gradient = look(model, current, gap)
        to_cover = -gaps
        there = to_hyperplane(current, gradient, to_cover, norm)
        from_clean = to_hyperplane(images, gradient, to_cover + (gradient * (current - images)).sum((1, 2, 3)), norm)
        near, far = (distance(each, norm).clamp(min=_TINY) for each in (there, from_clean))
        alpha = _spread((near / (near + far)).clamp(max=self.alpha_max))
        ahead = (1 - alpha) * (current + self.eta * there) + alpha * (images + self.eta * from_clean)
        return ahead.clamp(0, 1)


@dataclass(frozen=True)
class _Gap:
    """Logit of a target minus that of the label, for N images with these classes (N,)."""

    labels: Tensor
    aims: Tensor

    def of_images(self, chosen: Tensor) -> "_Gap":
        return _Gap(self.labels[chosen], self.aims[chosen])

    def __call__(self, logits: Tensor) -> Tensor:
        """Gap (N,) of logits (N, K), in float32 or wider."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        aims, labels = (logits.gather(1, each.unsqueeze(1)).squeeze(1) for each in (self.aims, self.labels))
        return aims - labels


def to_hyperplane(images: Tensor, normal: Tensor, to_cover: Tensor, norm: Norm) -> Tensor:
    """Find the shortest change, in Linf or L2, that moves images onto a hyperplane within the box [0, 1].

    Every value moves at a constant speed until it reaches a side of the box: the sign of the normal in Linf, the normal itself in
    L2. The product of normal and change grows linearly with time between two such stops.

    Args:
        images: (N, C, H, W) in [0, 1].
        normal: of the hyperplane, (N, C, H, W).
        to_cover: (N,), the required product of normal and change.
        norm: Linf or L2.

    Returns:
        Changes (N, C, H, W); if the box does not reach the hyperplane, those to the nearest point of the box.
    """
    scale = normal.flatten(1).abs().amax(1).clamp(min=torch.finfo(normal.dtype).tiny)  # squares must not underflow
    normal = normal.flatten(1) / scale.unsqueeze(1) * to_cover.sign().unsqueeze(1)
    direction = normal.sign() if norm is Norm.LINF else normal
    room = torch.where(normal > 0, 1 - images.flatten(1), images.flatten(1))
    met_at = torch.where(direction == 0, 0, room / direction.abs())
    time = _time_to_cover(to_cover.abs() / scale, normal * direction, met_at)
    return (direction * torch.minimum(time.unsqueeze(1), met_at)).view_as(images)


def _time_to_cover(whole: Tensor, speeds: Tensor, stops: Tensor) -> Tensor:
    """Time (N,) at which movers with speeds (N, D) and stopping times (N, D) have covered the whole (N,); infinite if never."""
    stops, order = stops.sort(1)
    speeds = speeds.gather(1, order)
    stopped = torch.nn.functional.pad((speeds * stops).cumsum(1), (1, 0))  # covered by those that stopped earlier
    moving = speeds.flip(1).cumsum(1).flip(1)
    last = (stopped[:, :-1] + moving * stops < whole.unsqueeze(1)).sum(1, keepdim=True)  # the first piece that suffices
    piece = last.clamp(max=stops.shape[1] - 1)
    rest = whole.unsqueeze(1) - stopped.gather(1, piece)
    time = rest / moving.gather(1, piece).clamp(min=torch.finfo(speeds.dtype).tiny)
    return torch.where(last > piece, torch.inf, time).squeeze(1)


def _spread(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
