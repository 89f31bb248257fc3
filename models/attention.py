"""Attention one can look at: what the attention layers of a classifier weigh, as maps over the image."""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import unknown_name
from models.classifier import Classifier
from models.families.aa_resnet import AugmentedConv2d
from models.families.attention_mask import AttentionMaskNet
from models.families.dat import DeformableAttention
from models.families.san.network import PairwiseAttention, PatchwiseAttention
from models.families.se_resnet import SqueezeExcitation

Place = tuple[float, float]
"""A place in the image the network sees, as fractions (y, x): (0, 0) is the upper left corner, (1, 1) the lower right."""

FAMILIES = "SAN, DAT (its deformable layers), AA-ResNet and attention masks"


class NoAttentionError(ValueError):
    """The classifier weighs no places of the image; the message says which families do."""


@dataclass(frozen=True)
class AttentionMap:
    """What one attention layer weighs in N images; cell (i, j) of an H x W map covers that part of the image.

    Attributes:
        layer: path of the module in the network.
        kind: what a map shows, in words.
        maps: (N, M, H, W) in [0, 1], each divided by its maximum; an empty map stays zero.
        scale: (N, M), the maxima.
        points: (N, M, P, 2), where deformable attention sampled its P = H*W keys, fractions (y, x) of the image; offsets of more
            than two cells can lead outside [0, 1].
        scores: (N, M, P), the softmax scores given to these points, which sum to one.
    """

    layer: str
    kind: str
    maps: Tensor
    scale: Tensor
    points: Tensor | None = None
    scores: Tensor | None = None


@dataclass(frozen=True)
class _Reading:
    """A layer's maps (N, M, H, W) before they are divided by their maxima."""

    kind: str
    maps: Tensor
    points: Tensor | None = None
    scores: Tensor | None = None


_Read = Callable[[Tensor, Tensor, Place | None], _Reading]
"""Reads a layer's input, its output, and the query."""


def attention_layers(classifier: Classifier) -> list[str]:
    """List the paths of the layers that `attention_maps` can show, the first layer first.

    Raises:
        NoAttentionError: there are none.
    """
    return list(_layers(classifier))


def attention_maps(
    classifier: Classifier, images: Tensor, *, layer: str | None = None, query: Place | None = None
) -> list[AttentionMap]:
    """Show what a classifier's attention layers weigh, in one forward pass in evaluation mode.

    | family | without a query | with a query |
    |---|---|---|
    | SAN | norm of a position's weights over weight maps and taps | its footprint: mean absolute weight of each tap |
    | AA-ResNet | attention a position receives, mean over queries, a map a head | what the query attends to, a map a head |
    | DAT | score of each sampled point, mean over queries, a map a head | score the query gives it, a map a head |
    | attention masks | the masks | the same, since they do not depend on a query |

    A reflected tap of SAN counts where it lands. In a DAT's map, a key's score stands in the cell it was moved from; `points` tells
    where it went. The keys of a head mix all groups; its points are those of the group that also gives its position bias.

    Args:
        classifier: any device; it and its modes are left as they were.
        images: (N, 3, H, W) in [0, 1].
        layer: one of `attention_layers(classifier)`; None shows all.
        query: whose attention to show.

    Returns:
        A row for each layer, in the order in which they ran.

    Raises:
        NoAttentionError: the classifier has no such layer.
        UnknownNameError: there is no layer of that name.
        ValueError: the query lies outside the image.
    """
    layers = _layers(classifier)
    if layer is not None and layer not in layers:
        raise unknown_name("layer", layer, layers)
    if query is not None and not all(0 <= each <= 1 for each in query):
        raise ValueError(f"query must be (y, x), each a fraction from 0 to 1, got {query}")
    found: list[AttentionMap] = []
    with _evaluating(classifier), torch.no_grad(), ExitStack() as hooks:
        for name in layers if layer is None else [layer]:
            module, read = layers[name]
            hooks.enter_context(module.register_forward_hook(_keep_in(found, name, read, query)))
        classifier(images)
    return found


def _layers(classifier: Classifier) -> dict[str, tuple[nn.Module, _Read]]:
    found: dict[str, tuple[nn.Module, _Read]] = {}
    for path, module in classifier.network.named_modules():
        match module:
            case PairwiseAttention() | PatchwiseAttention():
                found[path] = module, partial(_read_san, module)
            case AugmentedConv2d():
                found[path] = module, partial(_read_augmented, module)
            case DeformableAttention():
                found[path] = module, partial(_read_deformable, module)
            case AttentionMaskNet():
                found[f"{path}.attention".removeprefix(".")] = module.attention, _read_masks
            case _:
                pass
    if not found:
        raise NoAttentionError(_why_none(classifier))
    return found


def _why_none(classifier: Classifier) -> str:
    excites = any(isinstance(module, SqueezeExcitation) for module in classifier.network.modules())
    has = "has attention over channels only, not over places" if excites else "has no attention"
    return f"{classifier.card.architecture} {has}, so there is nothing to show on an image; {FAMILIES} have attention over places"


@contextmanager
def _evaluating(classifier: nn.Module) -> Generator[None]:
    training = [module for module in classifier.modules() if module.training]
    classifier.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _keep_in(
    found: list[AttentionMap], layer: str, read: _Read, query: Place | None
) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(_module: nn.Module, inputs: Any, output: Tensor) -> None:
        reading = read(inputs[0], output, query)
        maps = reading.maps.float()
        scale = maps.amax((2, 3))
        scaled = torch.where(scale[..., None, None] == 0, maps, maps / scale[..., None, None])
        found.append(AttentionMap(layer, reading.kind, scaled, scale, reading.points, reading.scores))

    return hook


def _read_san(
    module: PairwiseAttention | PatchwiseAttention, x: Tensor, _output: Tensor, query: Place | None
) -> _Reading:
    weights = module.attention(x)  # (N, maps, k*k, H*W)
    h, w = x.shape[-2:]
    if query is None:
        kind = "norm of the weights that each place gives its footprint"
        return _Reading(kind, weights.norm(dim=(1, 2)).view(-1, 1, h, w))
    y, x_ = _cell(query, h, w)
    k = module.kernel_size
    taps = weights[..., y * w + x_].abs().mean(1).view(-1, k, k)
    rows, columns = (_landing(centre, k, size, taps) for centre, size in ((y, h), (x_, w)))
    return _Reading(f"weights over the {k} x {k} footprint of the query", (rows.T @ taps @ columns).unsqueeze(1))


def _landing(centre: int, kernel_size: int, size: int, like: Tensor) -> Tensor:
    """Where the taps of one axis land after reflection at the border, one-hot: (k, size)."""
    places = (torch.arange(kernel_size, device=like.device) + centre - kernel_size // 2).abs()
    places = torch.where(places < size, places, 2 * (size - 1) - places)
    return F.one_hot(places, size).to(like.dtype)


def _read_augmented(module: AugmentedConv2d, x: Tensor, _output: Tensor, query: Place | None) -> _Reading:
    weights = module.attention(x)  # (N, heads, H*W, H*W)
    size = [-(-side // 2**module.pools) for side in x.shape[-2:]]
    whose, maps = _of_query(weights, query, size)
    return _Reading(f"attention that {whose} to each place, a map a head", maps.unflatten(-1, size))


def _of_query(weights: Tensor, query: Place | None, size: list[int]) -> tuple[str, Tensor]:
    """Reduce (N, heads, queries, keys) to (N, heads, keys), and say in words whose it is."""
    if query is None:
        return "all queries pay on average", weights.mean(2)
    y, x = _cell(query, *size)
    return "the query pays", weights[:, :, y * size[1] + x]


def _read_deformable(module: DeformableAttention, x: Tensor, _output: Tensor, query: Place | None) -> _Reading:
    positions, weights = module.attention(x)  # (N, groups, H, W, 2), (N, heads, queries, keys)
    size = list(x.shape[-2:])
    whose, scores = _of_query(weights.float(), query, size)
    pixels = (
        (positions.float() + 1) / 2 * (positions.new_tensor(size) - 1)
    )  # -1 and 1 are the centres of the corner pixels
    points = ((pixels + 0.5) / positions.new_tensor(size)).flatten(2, 3)
    points = points.repeat_interleave(module.heads // module.groups, 1)  # (N, heads, keys, 2)
    return _Reading(
        f"attention that {whose} to each sampled point, a map a head", scores.unflatten(-1, size), points, scores
    )


def _read_masks(_features: Tensor, output: Tensor, _query: Place | None) -> _Reading:
    return _Reading("masks that weigh the last features before pooling", output.sigmoid())


def _cell(query: Place, height: int, width: int) -> tuple[int, int]:
    """Find the cell of a map under a place in the image."""
    y, x = query
    return min(int(y * height), height - 1), min(int(x * width), width - 1)
