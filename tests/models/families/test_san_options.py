"""Every choice of SAN's ablations against a loop over positions and taps."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

import models
from models.families.san.network import (
    POSITIONS,
    RELATIONS,
    TRANSFORMS,
    AttentionOptions,
    PairwiseAttention,
    PatchwiseAttention,
)

CHANNELS, SIZE = 32, (3, 4)
SMALL = {"r1": 16, "r2": 8, "share": 2}


def reflected(position: int, size: int) -> int:
    if position < 0:
        return -position
    return position if position < size else 2 * (size - 1) - position


def randomised(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            value.data = drawn.abs() + 0.5 if name.endswith("running_var") else drawn
    return module.double().eval()


def by_hand(module: PairwiseAttention | PatchwiseAttention, x: Tensor) -> Tensor:
    """Attend an image (C, H, W) position by position."""
    h, w = x.shape[1:]
    k, options = module.kernel_size, module.options
    tied = options.transforms == "all_tied"
    beta = module.conv3(x[None])[0]
    phi = beta if tied else module.conv1(x[None])[0]
    psi = module.conv2(x[None])[0] if options.transforms == "distinct" else phi
    result = torch.empty_like(beta)
    for i, j in product(range(h), range(w)):
        taps = [
            (reflected(i + dy - k // 2, h), reflected(j + dx - k // 2, w)) for dy, dx in product(range(k), range(k))
        ]
        weights = (
            pairwise_weights(module, phi, psi, (i, j), taps)
            if isinstance(module, PairwiseAttention)
            else patchwise_weights(module, phi, psi, (i, j), taps)
        )  # (taps, maps)
        for channel in range(len(beta)):
            values = torch.stack([beta[channel, y, u] for y, u in taps])
            result[channel, i, j] = (weights[:, channel % module.maps] * values).sum()
    return result


def gamma(module: nn.Module, features: Tensor) -> Tensor:
    return module.conv_w(features.view(1, -1, 1, 1)).flatten()


def pairwise_weights(
    module: PairwiseAttention, phi: Tensor, psi: Tensor, centre: tuple[int, int], taps: list[tuple[int, int]]
) -> Tensor:
    h, w = phi.shape[1:]

    def place(y: int, u: int) -> Tensor:
        coordinates = torch.tensor([2 * u / (w - 1) - 1, 2 * y / (h - 1) - 1], dtype=phi.dtype)
        return module.conv_p(coordinates.view(1, 2, 1, 1)).flatten()

    logits: list[Tensor] = []
    for tap in taps:
        a, b = phi[:, centre[0], centre[1]], psi[:, tap[0], tap[1]]
        features = {
            "subtraction": a - b,
            "summation": a + b,
            "concatenation": torch.cat([a, b]),
            "hadamard": a * b,
            "dot": (a @ b).view(1),
        }[module.relation_name]
        if module.options.position == "relative":
            features = torch.cat([features, place(*centre) - place(*tap)])
        if module.options.position == "absolute":
            features = torch.cat([features, place(*centre), place(*tap)])
        logits.append(gamma(module, features))
    return torch.stack(logits).softmax(0)


def patchwise_weights(
    module: PatchwiseAttention, phi: Tensor, psi: Tensor, centre: tuple[int, int], taps: list[tuple[int, int]]
) -> Tensor:
    a = phi[:, centre[0], centre[1]]
    features = {
        "concatenation": lambda: torch.cat(
            [a, *(torch.stack([psi[c, y, u] for y, u in taps]) for c in range(len(psi)))]
        ),
        "star": lambda: torch.stack([a @ psi[:, y, u] for y, u in taps]),
        "clique": lambda: torch.stack([phi[:, y, u] @ psi[:, t, v] for (y, u), (t, v) in product(taps, taps)]),
    }[module.relation_name]()
    return gamma(module, features).view(module.maps, len(taps)).T


def assert_equals_the_loop(module: nn.Module) -> None:
    randomised(module)
    x = torch.randn(2, CHANNELS, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([by_hand(module, image) for image in x])
    actual = module(x)
    assert (actual - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("transforms", TRANSFORMS)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("relation", RELATIONS["pairwise"])
def test_pairwise_attention_equals_a_loop(relation: str, position: str, transforms: str) -> None:
    options = AttentionOptions(relation=relation, position=position, transforms=transforms, **SMALL)
    assert_equals_the_loop(PairwiseAttention(CHANNELS, 3, options))


@pytest.mark.parametrize("transforms", TRANSFORMS)
@pytest.mark.parametrize("relation", RELATIONS["patchwise"])
def test_patchwise_attention_equals_a_loop(relation: str, transforms: str) -> None:
    options = AttentionOptions(relation=relation, transforms=transforms, **SMALL)
    assert_equals_the_loop(PatchwiseAttention(CHANNELS, 3, options))


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("attention", [PairwiseAttention, PatchwiseAttention])
def test_mapping_of_every_depth_equals_a_loop(
    attention: type[PairwiseAttention | PatchwiseAttention], layers: int
) -> None:
    module = attention(CHANNELS, 3, AttentionOptions(mapping_layers=layers, **SMALL))
    convolutions = [m for m in module.conv_w if isinstance(m, nn.Conv2d)]
    assert [c.bias is not None for c in convolutions] == [False] * (layers - 1) + [True]
    assert_equals_the_loop(module)


@pytest.mark.parametrize("transforms", TRANSFORMS)
def test_tied_transforms_are_one_convolution(transforms: str) -> None:
    module = PairwiseAttention(CHANNELS, 3, AttentionOptions(transforms=transforms))
    names = {name.split(".")[0] for name, _ in module.named_parameters() if name[4].isdigit()}
    assert (
        names
        == {"distinct": {"conv1", "conv2", "conv3"}, "tied": {"conv1", "conv3"}, "all_tied": {"conv3"}}[transforms]
    )


def test_the_published_attention_is_known_as_such() -> None:
    assert PairwiseAttention(CHANNELS, 3).is_published
    assert PatchwiseAttention(CHANNELS, 3, AttentionOptions(relation="concatenation", **SMALL)).is_published
    for other in ({"relation": "dot"}, {"mapping_layers": 1}, {"transforms": "tied"}, {"position": "none"}):
        assert not PairwiseAttention(CHANNELS, 3, AttentionOptions(**other)).is_published


@pytest.mark.parametrize("footprint", [3, 5, 7, 9, 11])
@pytest.mark.parametrize("kind", ["pairwise", "patchwise"])
def test_every_footprint_of_the_paper_runs(kind: str, footprint: int) -> None:
    network = models.create(f"san_mini_{kind}", num_classes=3, footprints=(footprint,) * 3).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"relation": "star"}, r"unknown pairwise relation 'star'.*Known: concatenation, dot, hadamard"),
        ({"transforms": "shared"}, r"unknown transforms 'shared'.*Known: all_tied, distinct, tied"),
        ({"position": "sine"}, "unknown position encoding 'sine'"),
        ({"mapping_layers": 4}, "mapping_layers must be 1, 2 or 3, got 4"),
        ({"r2": 0}, "r1, r2 and share must be at least 1, got 16, 0 and 8"),
        ({"r1": 48}, r"widths must be multiples of 96, got \(64, 128, 256\)"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        models.create("san_mini_pairwise", **options)


def test_an_option_that_san_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"san_mini_pairwise has no option colour; it has: .*relation"):
        models.create("san_mini_pairwise", colour="red")
