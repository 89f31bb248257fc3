"""The neighbourhood operations against loops that are slow and obvious."""

from itertools import product

import pytest
import torch
from torch import Tensor

from models.ops.neighbourhood import aggregation, gather_taps, subtraction

CASES = [(1, 1, 1), (1, 4, 3), (3, 2, 2), (3, 5, 4), (3, 2, 7), (5, 3, 5), (5, 7, 4), (7, 4, 5)]
every_case = pytest.mark.parametrize(("k", "h", "w"), CASES)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reflected(position: int, size: int) -> int:
    """Mirror a position beyond the border; the edge itself is not repeated."""
    if position < 0:
        return -position
    return position if position < size else 2 * (size - 1) - position


def under_tap(x: Tensor, n: int, c: int, y: int, column: int, *, tap: int, k: int) -> float:
    row = reflected(y + tap // k - k // 2, x.shape[2])
    return x[n, c, row, reflected(column + tap % k - k // 2, x.shape[3])].item()


def naive_aggregation(values: Tensor, weights: Tensor, k: int) -> Tensor:
    result = torch.zeros_like(values)
    width = values.shape[3]
    for n, c, y, x in product(*map(range, values.shape)):
        for tap in range(k * k):
            weight = weights[n, c % weights.shape[1], tap, y * width + x].item()
            result[n, c, y, x] += weight * under_tap(values, n, c, y, x, tap=tap, k=k)
    return result


def naive_subtraction(centres: Tensor, neighbours: Tensor, k: int) -> Tensor:
    n, c, h, w = centres.shape
    result = centres.new_zeros(n, c, k * k, h * w)
    for i, channel, y, x in product(*map(range, centres.shape)):
        for tap in range(k * k):
            neighbour = under_tap(neighbours, i, channel, y, x, tap=tap, k=k)
            result[i, channel, tap, y * w + x] = centres[i, channel, y, x] - neighbour
    return result


@every_case
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_aggregation_equals_the_loop(k: int, h: int, w: int, groups: int) -> None:
    values, weights = draw(2, 4, h, w), draw(2, groups, k * k, h * w, seed=1)
    assert torch.allclose(aggregation(values, weights, k), naive_aggregation(values, weights, k), rtol=0, atol=1e-12)


@every_case
def test_subtraction_equals_the_loop(k: int, h: int, w: int) -> None:
    centres, neighbours = draw(2, 3, h, w), draw(2, 3, h, w, seed=1)
    assert torch.equal(subtraction(centres, neighbours, k), naive_subtraction(centres, neighbours, k))


@every_case
def test_gathered_taps_are_what_subtraction_subtracts(k: int, h: int, w: int) -> None:
    features = draw(2, 3, h, w)
    taps = gather_taps(features, k).view(2, 3, k * k, h * w)
    assert torch.equal(taps, -naive_subtraction(torch.zeros_like(features), features, k))


@every_case
def test_gradients_equal_finite_differences(k: int, h: int, w: int) -> None:
    values, weights = draw(1, 4, h, w).requires_grad_(), draw(1, 2, k * k, h * w, seed=1).requires_grad_()
    centres, neighbours = draw(1, 2, h, w).requires_grad_(), draw(1, 2, h, w, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: aggregation(a, b, k), (values, weights), fast_mode=True)
    assert torch.autograd.gradcheck(lambda a, b: subtraction(a, b, k), (centres, neighbours), fast_mode=True)


def test_gradients_of_a_small_case_entry_by_entry() -> None:
    values, weights = draw(2, 4, 3, 4).requires_grad_(), draw(2, 2, 9, 12, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: aggregation(a, b, 3), (values, weights))
    assert torch.autograd.gradcheck(
        lambda a, b: subtraction(a, b, 3), (values, values.detach().clone().requires_grad_())
    )


def test_one_input_in_both_places_gets_both_gradients() -> None:
    x = draw(1, 2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: subtraction(a, a, 3), (x,))


def test_gradients_reach_inputs_that_are_not_contiguous() -> None:
    base = draw(1, 4, 5, 3).requires_grad_()
    weights = draw(1, 15, 9, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: aggregation(a.mT, b.permute(0, 3, 2, 1), 3).mT, (base, weights))


def test_taps_run_along_rows_first() -> None:
    """One weight of 1 shifts the map: tap 1 of a 3 x 3 footprint lies above the centre, tap 3 left of it."""
    values = torch.arange(12.0).view(1, 1, 3, 4)
    for tap, expected in [(1, values[..., [1, 0, 1], :]), (3, values[..., [1, 0, 1, 2]]), (4, values)]:
        weights = torch.zeros(1, 1, 9, 12)
        weights[:, :, tap] = 1
        assert torch.equal(aggregation(values, weights, 3), expected), tap


@pytest.mark.parametrize(("k", "h", "w"), [(1, 2, 3), (3, 4, 5), (5, 6, 3)])
def test_uniform_weights_give_the_mean_of_the_footprint(k: int, h: int, w: int) -> None:
    values = draw(2, 4, h, w)
    uniform = torch.full((2, 2, k * k, h * w), 1 / k**2, dtype=torch.float64)
    padded = torch.nn.functional.pad(values, (k // 2,) * 4, mode="reflect")
    mean = torch.nn.functional.avg_pool2d(padded, k, stride=1)
    assert torch.allclose(aggregation(values, uniform, k), mean, rtol=0, atol=1e-12)


def test_a_constant_map_has_no_differences_and_keeps_its_value() -> None:
    constant = torch.full((1, 2, 4, 5), 0.7, dtype=torch.float64)
    assert not subtraction(constant, constant, 3).any()
    softmax = draw(1, 1, 9, 20).softmax(2)
    assert torch.allclose(aggregation(constant, softmax, 3), constant, rtol=0, atol=1e-12)


def test_maps_of_one_pixel() -> None:
    values, weights = draw(2, 4, 1, 1), draw(2, 2, 1, 1, seed=1)
    expected = values * weights.view(2, 2, 1, 1).repeat(1, 2, 1, 1)
    assert torch.equal(aggregation(values, weights, 1), expected)
    assert torch.equal(subtraction(values, 3 * values, 1), (values - 3 * values))


@pytest.mark.parametrize(("k", "h", "w"), [(3, 1, 5), (3, 5, 1), (5, 2, 9), (7, 9, 3)])
def test_maps_too_small_for_the_footprint_are_refused(k: int, h: int, w: int) -> None:
    values, weights = draw(1, 2, h, w), draw(1, 1, k * k, h * w)
    match = f"a footprint of {k} needs a map larger than {k // 2} in both directions, got {h} x {w}"
    for call in (
        lambda: aggregation(values, weights, k),
        lambda: subtraction(values, values, k),
        lambda: gather_taps(values, k),
    ):
        with pytest.raises(ValueError, match=match):
            call()


@pytest.mark.parametrize("k", [0, 2, 4, -1, -3])
def test_even_footprints_are_refused(k: int) -> None:
    values = draw(1, 2, 6, 6)
    for call in (
        lambda: aggregation(values, values, k),
        lambda: subtraction(values, values, k),
        lambda: gather_taps(values, k),
    ):
        with pytest.raises(ValueError, match=f"the footprint must be odd and positive, got {k}"):
            call()


@pytest.mark.parametrize(
    "shape", [(2, 2, 9, 20), (1, 3, 9, 20), (1, 2, 3, 20), (1, 2, 9, 4), (1, 2, 9, 4, 5), (1, 18, 20)]
)
def test_weights_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"weights must be \(N=1, G dividing 4, k\*k=9, H\*W=20\), got"):
        aggregation(draw(1, 4, 4, 5), draw(*shape), 3)


def test_centres_and_neighbours_have_one_shape() -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        subtraction(draw(1, 2, 4, 4), draw(1, 1, 4, 4), 3)


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16])
def test_mixed_types_are_promoted_and_gradients_keep_their_own(low: torch.dtype) -> None:
    first, second = draw(1, 2, 4, 4).to(low).requires_grad_(), draw(1, 2, 9, 16, seed=1).requires_grad_()
    result = aggregation(first, second, 3)
    assert result.dtype == torch.float64
    assert torch.allclose(result, naive_aggregation(first.detach().double(), second.detach(), 3), rtol=0, atol=1e-12)
    gradients = torch.autograd.grad(result.sum(), (first, second))
    assert [gradient.dtype for gradient in gradients] == [low, torch.float64]

    centres, neighbours = draw(1, 2, 4, 4).to(low).requires_grad_(), draw(1, 2, 4, 4, seed=1).requires_grad_()
    difference = subtraction(centres, neighbours, 3)
    assert torch.equal(difference, naive_subtraction(centres.detach().double(), neighbours.detach(), 3))
    gradients = torch.autograd.grad(difference.sum(), (centres, neighbours))
    assert [gradient.dtype for gradient in gradients] == [low, torch.float64]
