"""Attention augmented convolutions against a slow and obvious loop."""

import math
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from benchmarks.san_ops import peak_mib
from common import UnknownNameError
from models.families.aa_resnet.attention import AugmentedConv2d, Positions
from models.ops.relative import append_relative_logits, one_hot_positions, relative_logits
from tests.models.families.encodings import draw, every_encoding

INPUTS, OUTPUTS, KEYS, VALUES, HEADS = 6, 10, 6, 4, 2
MAPS = [(1, 1), (1, 4), (3, 3), (5, 2)]
every_map = pytest.mark.parametrize("size", MAPS, ids=str)


def layer(size: tuple[int, int], positions: Positions = "relative", **options: int) -> AugmentedConv2d:
    dims = {"key_dims": KEYS, "value_dims": VALUES, "heads": HEADS, **options}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return AugmentedConv2d(INPUTS, OUTPUTS, map_size=size, positions=positions, **dims).double()


def relative_logits_by_index(queries: Tensor, table: Tensor) -> Tensor:
    """`relative_logits` as it is defined, with a table row looked up for every pair of positions."""
    positions = torch.arange(queries.shape[-2])
    rows = table[positions - positions.unsqueeze(1) + len(positions) - 1]  # (L, L, D)
    return torch.einsum("...id,ijd->...ij", queries, rows)


def relative_bias(queries: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """S_H + S_W of queries (N, heads, H, W, D) for every pair of positions, (N, heads, H*W, H*W)."""
    vertical = relative_logits_by_index(queries.transpose(2, 3), rel_h).transpose(2, 3)  # (N, heads, H, W, H)
    horizontal = relative_logits_by_index(queries, rel_w)  # (N, heads, H, W, W)
    return (vertical.unsqueeze(-1) + horizontal.unsqueeze(-2)).flatten(4).flatten(2, 3)


def attend_with_bias(module: AugmentedConv2d, x: Tensor) -> Tensor:
    """The layer's attention with its relative logits in memory as a bias: (N, C, H, W) to (N, d_v, H, W)."""
    n, _, h, w = x.shape
    dims = [module.key_dims, module.key_dims, module.value_dims]
    parts = module.qkv(x).split(dims, 1)
    queries, keys, values = (part.view(n, module.heads, -1, h * w).mT for part in parts)
    queries = queries * queries.shape[-1] ** -0.5
    bias = relative_bias(queries.unflatten(2, (h, w)), module.rel_h, module.rel_w)
    heads = (queries @ keys.mT + bias).softmax(-1) @ values
    return module.projection(heads.mT.reshape(n, -1, h, w))


def with_gradients(call: Any, module: nn.Module, x: Tensor) -> list[Tensor]:
    """The output of a call, and the gradients to its input and to the parameters that it uses."""
    leaf = x.clone().requires_grad_()
    output = call(leaf)
    upstream = draw(*output.shape, seed=5).to(output.dtype)
    return [output, *torch.autograd.grad(output, [leaf, *module.parameters()], upstream)]


def encoded(x: Tensor, positions: str) -> Tensor:
    """Add or concatenate the encoding of positions to one image (C, H, W), number by number."""
    channels, h, w = x.shape
    result = x.clone()
    if positions == "sine":
        count = math.ceil(channels / 4)
        for c, row, column in product(range(channels), range(h), range(w)):
            place = row if c < 2 * count else column
            wave = math.cos if c // count % 2 else math.sin
            result[c, row, column] += wave(place / 10000 ** (c % count / count))
    if positions == "coord":
        result = torch.cat([x, x.new_zeros(3, h, w)])
        for row, column in product(range(h), range(w)):
            across = -1 if w == 1 else 2 * column / (w - 1) - 1
            down = -1 if h == 1 else 2 * row / (h - 1) - 1
            result[channels:, row, column] = x.new_tensor([across, down, math.hypot(across, down)])
    return result


def naive_attention(module: AugmentedConv2d, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the attention of one image (C, H, W), mixed over heads (d_v, H, W), and its weights (heads, H*W, H*W)."""
    h, w = image.shape[1:]
    image = encoded(image, module.positions)
    matrix = module.qkv.weight[:, :, 0, 0]
    wq, wk, wv = matrix[:KEYS], matrix[KEYS : 2 * KEYS], matrix[2 * KEYS :]
    positions = list(product(range(h), range(w)))
    weights = torch.zeros(HEADS, h * w, h * w, dtype=torch.float64)
    heads = torch.zeros(VALUES, h, w, dtype=torch.float64)
    dk, dv = KEYS // HEADS, VALUES // HEADS
    for head, (i, (iy, ix)) in product(range(HEADS), enumerate(positions)):
        query = wq[head * dk : head * dk + dk] @ image[:, iy, ix]
        logits = []
        for jy, jx in positions:
            logit = query @ (wk[head * dk : head * dk + dk] @ image[:, jy, jx])
            if module.positions == "relative":
                logit = logit + query @ module.rel_h[jy - iy + h - 1] + query @ module.rel_w[jx - ix + w - 1]
            logits.append(logit / math.sqrt(dk))
        weights[head, i] = torch.stack(logits).softmax(0)
        for j, (jy, jx) in enumerate(positions):
            value = wv[head * dv : head * dv + dv] @ image[:, jy, jx]
            heads[head * dv : head * dv + dv, iy, ix] += weights[head, i, j] * value
    return torch.einsum("oc,chw->ohw", module.projection.weight[:, :, 0, 0], heads), weights


@every_map
@every_encoding
def test_attention_equals_the_loop(positions: Positions, size: tuple[int, int]) -> None:
    module, x = layer(size, positions), draw(2, INPUTS, *size)
    with torch.no_grad():
        output, weights = module(x), module.attention(x)
        for index, image in enumerate(x):
            attended, expected = naive_attention(module, image)
            assert torch.allclose(output[index, OUTPUTS - VALUES :], attended, rtol=0, atol=1e-12)
            assert torch.allclose(weights[index], expected, rtol=0, atol=1e-12)
    assert module.conv is not None
    assert torch.equal(output[:, : OUTPUTS - VALUES], module.conv(x))


@pytest.mark.parametrize("length", [1, 2, 5])
def test_relative_logits_by_shifting_by_index_and_by_definition(length: int) -> None:
    queries, table = draw(2, 3, length, 4), draw(2 * length - 1, 4, seed=1)
    expected = queries.new_zeros(2, 3, length, length)
    for i, j in product(range(length), range(length)):
        expected[..., i, j] = queries[..., i, :] @ table[j - i + length - 1]
    assert torch.allclose(relative_logits(queries, table), expected, rtol=0, atol=1e-13)
    assert torch.allclose(relative_logits_by_index(queries, table), expected, rtol=0, atol=1e-13)


@every_map
def test_appended_logits_times_one_hot_positions_are_the_bias(size: tuple[int, int]) -> None:
    h, w = size
    queries, tables = draw(2, 3, h, w, 4), (draw(2 * h - 1, 4, seed=1), draw(2 * w - 1, 4, seed=2))
    positions = one_hot_positions(h, w, 4).double()
    wide = append_relative_logits(queries, *tables, positions.shape[1])
    assert wide.shape[-1] % 8 == 0
    assert torch.equal(wide[..., :4], queries.flatten(2, 3))
    assert torch.allclose(wide[..., 4:] @ positions.T, relative_bias(queries, *tables), rtol=0, atol=1e-13)


def test_the_gradients_of_appended_logits() -> None:
    inputs = [draw(1, 2, 2, 3, 2), draw(3, 2, seed=1), draw(5, 2, seed=2)]
    assert torch.autograd.gradcheck(lambda *x: append_relative_logits(*x, 6), [x.requires_grad_() for x in inputs])


def wide_layer(size: tuple[int, int], value_dims: int = 16) -> AugmentedConv2d:
    """With the sizes of AA-ResNet-50; one with more values than outputs has no convolution."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        dims = {"key_dims": 160, "value_dims": value_dims, "heads": 8, "map_size": size}
        module = AugmentedConv2d(32, value_dims, **dims)
        nn.init.normal_(module.qkv.weight, std=0.3)  # logits up to 5: the weights of positions differ
    return module


@pytest.mark.parametrize(
    ("size", "value_dims"), [((28, 28), 16), ((14, 14), 24), ((7, 7), 48), ((20, 11), 16), ((12, 12), 512)], ids=str
)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 2e-6)], ids=str)
def test_attention_without_a_bias_equals_that_with_one(
    size: tuple[int, int], value_dims: int, dtype: torch.dtype, bound: float
) -> None:
    """Output and every gradient; an error is that to float64, relative to the largest number."""
    module, x = wide_layer(size, value_dims).to(dtype), draw(2, 32, *size).to(dtype)
    ours = with_gradients(module, module, x)
    double = module.double()
    expected = with_gradients(lambda each: attend_with_bias(double, each), double, x.double())
    for mine, exact in zip(ours, expected, strict=True):
        assert mine.dtype == dtype
        assert (mine - exact).abs().max() <= bound * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_memory_for_pairs_of_places(dtype: torch.dtype) -> None:
    """Forward and gradient; the plain form holds the logits, their bias and their gradients."""
    module, x = wide_layer((28, 28)).to(dtype).requires_grad_(False), draw(2, 32, 28, 28).to(dtype)
    leaf, cpu = x.requires_grad_(), torch.device("cpu")
    ours, plain = (
        peak_mib(lambda call=call: torch.autograd.grad(call(leaf).sum(), leaf), cpu)
        for call in (module, lambda each: attend_with_bias(module, each))
    )
    assert ours < plain / 2


def test_fused_kernels_find_what_they_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One width, a multiple of eight, and the numbers of a row beside each other."""
    seen: list[Tensor] = []
    attend = F.scaled_dot_product_attention

    def watch(*operands: Tensor, **options: Any) -> Tensor:
        seen.extend(operands)
        return attend(*operands, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watch)
    wide_layer((14, 14))(torch.zeros(1, 32, 14, 14))
    assert [(x.shape[-1], x.stride(-1)) for x in seen] == [(48, 1)] * 3


@pytest.mark.parametrize(("name", "macs"), [("aa_resnet50", 4_744_384_816), ("aa_resnet_mini", 26_460_672)])
def test_products_with_zeros_and_ones_are_not_counted(name: str, macs: int) -> None:
    """The numbers of multiplications are those of the form with a bias."""
    assert models.complexity(models.create(name), models.spec(name).input_shape).macs == macs


@every_encoding
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"pools": 1}], ids=str)
def test_the_gradients_of_the_layer(positions: Positions, options: dict[str, Any]) -> None:
    module = layer((3, 2), positions, **options)
    names = [name for name, _ in module.named_parameters()]

    def call(x: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, weights, strict=True)), x)

    assert torch.autograd.gradcheck(
        call, (draw(1, INPUTS, 3, 2).requires_grad_(), *module.parameters()), fast_mode=True
    )


@every_map
def test_uniform_attention_gives_the_mean(size: tuple[int, int]) -> None:
    module, x = layer(size), draw(2, INPUTS, *size)
    with torch.no_grad():
        module.qkv.weight[:KEYS].zero_()  # queries of zero silence keys and positions
        values = torch.einsum("oc,nc->no", module.qkv.weight[2 * KEYS :, :, 0, 0], x.mean((2, 3)))
        expected = torch.einsum("oc,nc->no", module.projection.weight[:, :, 0, 0], values)
        attended = module(x)[:, OUTPUTS - VALUES :]
    assert torch.allclose(attended, expected[..., None, None].expand_as(attended), rtol=0, atol=1e-12)


def test_swapping_rows_and_columns_of_map_and_tables_swaps_those_of_the_output() -> None:
    module, x = layer((3, 5)), draw(1, INPUTS, 3, 5)
    turned = layer((5, 3))
    turned.load_state_dict({**module.state_dict(), "rel_h": module.rel_w, "rel_w": module.rel_h})
    attended = slice(OUTPUTS - VALUES, None)
    with torch.no_grad():
        assert torch.allclose(turned(x.mT).mT[:, attended], module(x)[:, attended], rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (1, 1)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pools", [0, 1, 2])
def test_strided_and_pooled_layers_keep_the_shape_of_the_convolution(
    size: tuple[int, int], stride: int, pools: int
) -> None:
    module, x = layer(size, stride=stride, pools=pools), draw(2, INPUTS, *size)
    with torch.no_grad():
        output, weights = module(x), module.attention(x)
    halves = [math.ceil(side / 2**pools) for side in size]
    assert output.shape == (2, OUTPUTS, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
    assert weights.shape == (2, HEADS, math.prod(halves), math.prod(halves))
    assert [len(module.rel_h), len(module.rel_w)] == [2 * side - 1 for side in halves]


def test_what_is_pooled_before_and_after() -> None:
    """The attention of a strided layer is the pooled one of the plain layer; a pooled layer attends to the pooled input."""

    def pool(x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False)

    x, attended = draw(2, INPUTS, 6, 4), slice(OUTPUTS - VALUES, None)
    with torch.no_grad():
        plain, half = layer((6, 4))(x)[:, attended], layer((3, 2))(pool(x))[:, attended]
        assert torch.allclose(layer((6, 4), stride=2)(x)[:, attended], pool(plain), rtol=0, atol=1e-12)
        assert torch.allclose(layer((6, 4), stride=2, pools=1)(x)[:, attended], half, rtol=0, atol=1e-12)
        upsampled = nn.functional.interpolate(half, (6, 4), mode="bilinear")
        assert torch.allclose(layer((6, 4), pools=1)(x)[:, attended], upsampled, rtol=0, atol=1e-12)


def test_attention_may_replace_the_convolution() -> None:
    module = layer((3, 3), value_dims=OUTPUTS)
    assert module.conv is None
    assert set(module.state_dict()) == {"qkv.weight", "projection.weight", "rel_h", "rel_w"}
    assert module(draw(2, INPUTS, 3, 3)).shape == (2, OUTPUTS, 3, 3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@every_encoding
def test_lower_precision_is_near(positions: Positions, dtype: torch.dtype, tolerance: float) -> None:
    module, x = layer((4, 5), positions), draw(2, INPUTS, 4, 5)
    with torch.no_grad():
        exact, rounded = module(x), module.to(dtype)(x.to(dtype))
    assert rounded.dtype == dtype
    assert (rounded - exact).norm() <= tolerance * exact.norm()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"key_dims": 5}, "multiples of heads=2, and value_dims at most outputs=10, got 5 and 4"),
        ({"value_dims": 3}, "got 6 and 3"),
        ({"value_dims": 12}, "got 6 and 12"),
        ({"value_dims": 0}, "got 6 and 0"),
    ],
)
def test_a_layer_refuses_dimensions_that_do_not_fit(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        layer((2, 2), **options)


def test_sizes_and_names_that_are_refused() -> None:
    with pytest.raises(ValueError, match="the relative positions of this layer are for maps of 3 x 4, got 4 x 3"):
        layer((3, 4))(draw(1, INPUTS, 4, 3))
    with pytest.raises(ValueError, match=r"the table for 3 positions must be \(2L - 1 = 5, D = 2\), got \(6, 2\)"):
        relative_logits(draw(3, 2), draw(6, 2))
    with pytest.raises(UnknownNameError, match=r"unknown position encoding 'sinus'\. Did you mean 'sine'\?"):
        models.create("aa_resnet_mini", positions="sinus")
    with pytest.raises(ValueError, match=r"built for images of 32 x 32 \(option image_size\), got 32 x 40"):
        models.create("aa_resnet_mini")(torch.zeros(1, 3, 32, 40))
    out_of_range: list[dict[str, Any]] = [
        {"kappa": 0},
        {"upsilon": 1.1},
        {"upsilon": 0},
        {"heads": 0},
        {"image_size": 0},
    ]
    for wrong in out_of_range:
        with pytest.raises(
            ValueError, match=r"kappa must be above 0, upsilon in .*heads and image_size at least 1, got"
        ):
            models.create("aa_resnet_mini", **wrong)
