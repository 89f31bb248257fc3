"""DAT's own parts: attention against loops, the paper's options, and what is refused."""

from itertools import product
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import models
from models.families.dat.attention import POSITIONS, DeformableAttention, Position, WindowAttention
from models.families.dat.network import DAT, StochasticDepth


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    for index, parameter in enumerate(module.parameters()):
        parameter.data = draw(*parameter.shape, seed=index) * 0.5
    return module.double().eval()


def window_attention_by_hand(module: WindowAttention, x: Tensor) -> Tensor:
    """Every query of an image (C, H, W) by itself; a key counts if it shares the window and did not come around the border."""
    c, h, w = x.shape
    side, shift, d = module.window, module.shift, c // module.heads
    qkv = module.proj_qkv(x.permute(1, 2, 0))  # (H, W, 3C)
    attended = torch.zeros(h, w, c, dtype=x.dtype)
    table = module.relative_position_bias_table
    windows = {(y, u): ((y - shift) % h // side, (u - shift) % w // side) for y, u in product(range(h), range(w))}
    for (y, u), head in product(windows, range(module.heads)):
        channels = slice(head * d, (head + 1) * d)
        keys = [place for place, window in windows.items() if window == windows[y, u]]
        logits: list[Tensor] = []
        for ky, ku in keys:
            dy = (y - shift) % h % side - (ky - shift) % h % side
            du = (u - shift) % w % side - (ku - shift) % w % side
            bias = table[(dy + side - 1) * (2 * side - 1) + du + side - 1, head]
            apart = (y < shift) != (ky < shift) or (u < shift) != (ku < shift)
            score = qkv[y, u, :c][channels] @ qkv[ky, ku, c : 2 * c][channels] / d**0.5
            logits.append(score + bias - 100.0 * apart)
        weights = torch.stack(logits).softmax(0)
        attended[y, u, channels] = sum(
            weight * qkv[ky, ku, 2 * c :][channels] for weight, (ky, ku) in zip(weights, keys, strict=True)
        )
    return module.proj_out(attended).permute(2, 0, 1)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(3, 6), (6, 3), (6, 9)])
def test_window_attention_equals_a_loop(size: tuple[int, int], *, shifted: bool) -> None:
    module = cast(WindowAttention, randomised(WindowAttention(4, 2, 3, size, shifted=shifted)))
    x = draw(2, 4, *size)
    expected = torch.stack([window_attention_by_hand(module, image) for image in x])
    assert torch.allclose(module(x), expected, atol=1e-10)


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    """Sample (C, H, W) at a place in pixels; zeros outside."""
    total = torch.zeros(len(image), dtype=image.dtype)
    for row, column in product((int(y // 1), int(y // 1) + 1), (int(x // 1), int(x // 1) + 1)):
        if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
            total += image[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def deformable_attention_by_hand(module: DeformableAttention, x: Tensor) -> Tensor:
    """One key and one query after the other, for an image (C, H, W)."""
    c, h, w = x.shape
    cells = list(product(range(h), range(w)))
    q = module.proj_q(x[None])[0]
    positions = module.positions(q[None])[0]  # (groups, H, W, 2)
    width, d = c // module.groups, c // module.heads
    sampled = torch.empty_like(x)
    for group, (i, j) in product(range(module.groups), cells):
        y, u = positions[group, i, j].tolist()
        channels = slice(group * width, (group + 1) * width)
        sampled[channels, i, j] = bilinear(x[channels], (y + 1) / 2 * (h - 1), (u + 1) / 2 * (w - 1))
    k, v = module.proj_k(sampled[None])[0], module.proj_v(sampled[None])[0]
    result = torch.empty_like(x)
    for head, (i, j) in product(range(module.heads), cells):
        channels = slice(head * d, (head + 1) * d)
        group = head // (module.heads // module.groups)
        logits: list[Tensor] = []
        for a, b in cells:
            score = q[channels, i, j] @ k[channels, a, b] / d**0.5
            if module.position == "relative":
                dy = ((2 * i + 1) / h - 1 - positions[group, a, b, 0].item()) / 2
                du = ((2 * j + 1) / w - 1 - positions[group, a, b, 1].item()) / 2
                table = cast(Tensor, module.rpe_table)[head : head + 1]
                score = score + bilinear(table, (dy + 1) / 2 * (2 * h - 2), (du + 1) / 2 * (2 * w - 2))[0]
            if module.position == "fixed":
                score = score + cast(Tensor, module.rpe_table)[head, i * w + j, a * w + b]
            logits.append(score)
        weights = torch.stack(logits).softmax(0)
        result[channels, i, j] = sum(weight * v[channels, a, b] for weight, (a, b) in zip(weights, cells, strict=True))
    if module.position == "depthwise":
        result = result + cast(torch.nn.Module, module.rpe_table)(q[None])[0]
    return module.proj_out(result[None])[0]


@pytest.mark.parametrize("offset_range", [0, 2.0, 5.0])
@pytest.mark.parametrize("position", POSITIONS)
def test_deformable_attention_equals_a_loop(position: str, offset_range: float) -> None:
    module = DeformableAttention(
        8, 4, 2, (2, 3), offset_kernel=3, offset_range=offset_range, position=cast(Position, position)
    )
    randomised(module)
    x = draw(2, 8, 2, 3)
    expected = torch.stack([deformable_attention_by_hand(module, image) for image in x])
    assert torch.allclose(module(x), expected, atol=1e-10)


@pytest.mark.parametrize("kind", ["window", "deformable"])
def test_gradients_are_right(kind: str) -> None:
    window = WindowAttention(4, 2, 2, (2, 4), shifted=True)
    module = window if kind == "window" else DeformableAttention(4, 2, 1, (3, 2), offset_kernel=3)
    randomised(module)
    assert torch.autograd.gradcheck(module, draw(1, 4, *module.map_size).requires_grad_())


def test_without_offsets_the_grid_stays() -> None:
    still = DeformableAttention(8, 2, 2, (4, 2), offset_kernel=3, offset_range=0)
    positions, _ = still.attention(draw(3, 8, 4, 2).float())
    assert positions[2, 1, :, 0, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert positions[2, 1, 0, :, 1].tolist() == [-0.5, 0.5]
    assert not any("offset" in name for name, _ in still.named_parameters())


def test_points_move_by_no_more_than_the_range() -> None:
    module = cast(
        DeformableAttention, randomised(DeformableAttention(8, 2, 2, (4, 5), offset_kernel=3, offset_range=3))
    )
    still = cast(DeformableAttention, randomised(DeformableAttention(8, 2, 2, (4, 5), offset_kernel=3, offset_range=0)))
    cast(torch.nn.Conv2d, module.conv_offset[3]).weight.data *= 1000
    moved = module.positions(draw(6, 8, 4, 5)) - still.positions(draw(6, 8, 4, 5))
    assert moved[..., 0].abs().max().item() == pytest.approx(3 / 4, abs=1e-3)
    assert moved[..., 1].abs().max().item() == pytest.approx(3 / 5, abs=1e-3)


def test_stochastic_depth_keeps_whole_images_and_their_mean() -> None:
    layer = StochasticDepth(0.25)
    branch = torch.ones(4000, 2, 2, 2)
    torch.manual_seed(0)
    dropped = layer.train()(branch)
    assert dropped.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert (dropped.amax((1, 2, 3)) == dropped.amin((1, 2, 3))).all()
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)
    assert layer.eval()(branch) is branch


def test_stochastic_depth_grows_linearly_over_all_blocks() -> None:
    network = models.create("dat_tiny", num_classes=3)
    rates = [m.rate for m in network.modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0.2 * i / 11 for i in range(12)], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"position": "absolute"}, r"unknown position encoding 'absolute'.*relative, fixed|unknown position encoding"),
        ({"blocks": ("LX", "L", "L")}, r"unknown block kind X; these are known: L \(local window\), S"),
        ({"window": 5}, r"image_size 32 gives maps of \[16, 8, 4\], which must be multiples of window 5"),
        ({"image_size": 36}, "image_size 36 gives maps"),
        ({"groups": (1, 3, 4)}, "groups must divide heads and heads channels, got 3, 4 and 64"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        models.create("dat_mini", **options)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(
        ValueError, match="built for maps of 32 x 32, got 64 x 64: give the network images of its image_size"
    ):
        models.create("dat_mini")(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("position", POSITIONS)
def test_every_ablation_runs(position: str) -> None:
    network = models.create(
        "dat_mini", num_classes=3, position=position, blocks=("LD", "DD", "DD"), groups=(2, 2, 2), offset_range=1
    )
    loss = F.cross_entropy(network(torch.rand(2, 3, 32, 32)), torch.tensor([0, 2]))
    loss.backward()
    assert isinstance(network, DAT)
    assert loss.isfinite()
