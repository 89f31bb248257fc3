"""Square attack: strong without gradients, and each image has its own squares."""

import pytest
import torch
import torchattacks
from torch import Tensor, nn

import attacks
from attacks import Draws, Norm, ThreatModel, run_attack
from attacks.methods.square import Square
from attacks.methods.square_search import Pyramids, Squares, _signs, _two_pyramids, _Window
from tests.attacks.digits import Digits, draws, generator, robust
from tests.attacks.digits import nearest_mean as nearest_mean_of


class Detached(nn.Module):
    """A model through which no gradient passes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.detach()).detach().mul(4).round()


def test_close_to_the_exact_count_without_gradients(nearest_mean: nn.Module, digits: Digits) -> None:
    run = run_attack(
        attacks.create("square", queries=2000),
        nearest_mean,
        digits.images,
        digits.labels,
        threat=ThreatModel(Norm.LINF, 0.1),
        draws=Draws.of(0, range(len(digits.labels))),
    )
    assert 1185 <= robust(run, digits.labels).sum() <= 1195


def test_hidden_gradients_do_not_hinder_it(nearest_mean: nn.Module, digits: Digits) -> None:
    model = Detached(nearest_mean).eval()
    images, labels = digits.images[:200], digits.labels[:200]
    threat, draws = ThreatModel(Norm.LINF, 0.2), Draws.of(0, range(200))
    run = run_attack(attacks.create("square", queries=300), model, images, labels, threat=threat, draws=draws)
    assert run.flipped.sum() > 50


def distances_to_the_boundary(model: nn.Module, digits: Digits) -> Tensor:
    """L2 distance to the nearest other class of a linear model, negative where wrong already, the box left aside: (N,)."""
    weight, logits = model.get_parameter("1.weight"), model(digits.images)
    labels = digits.labels.unsqueeze(1)
    apart = (weight[labels] - weight).norm(dim=2)
    distances = (logits.gather(1, labels) - logits) / apart
    return distances.scatter(1, labels, torch.inf).amin(1)


def test_close_to_the_exact_count_in_l2(digits: Digits) -> None:
    """In grey images the box does not bind: just those within eps of the boundary can fall."""
    grey = Digits(0.3 + 0.4 * digits.images[::3], digits.labels[::3])
    model, eps = nearest_mean_of(grey), 0.16
    run = run_attack(
        attacks.create("square", queries=1000),
        model,
        grey.images,
        grey.labels,
        threat=ThreatModel(Norm.L2, eps),
        draws=Draws.of(0, range(len(grey.labels))),
    )
    cannot_fall = distances_to_the_boundary(model, grey) > eps
    assert cannot_fall.sum() == 431
    assert not (run.flipped & cannot_fall).any()
    assert robust(run, grey.labels).sum() <= 465  # noise leaves 538, FGSM 475


@pytest.mark.parametrize("threat", [ThreatModel(Norm.LINF, 0.08), ThreatModel(Norm.L2, 0.5)], ids=str)
def test_an_image_alone_falls_as_it_does_in_a_batch(network: nn.Module, digits: Digits, threat: ThreatModel) -> None:
    attack = attacks.create("square", queries=300)
    images, labels = digits.images[:12], digits.labels[:12]
    together = run_attack(attack, network, images, labels, threat=threat, draws=Draws.of(5, range(12)))
    assert 0 < together.flipped.sum() < 12
    for index in range(12):
        part = slice(index, index + 1)
        alone = run_attack(attack, network, images[part], labels[part], threat=threat, draws=Draws.of(5, [index]))
        assert torch.allclose(alone.adversarial[0], together.adversarial[index], atol=1e-6)


@pytest.mark.parametrize("threat", [ThreatModel(Norm.LINF, 0.3), ThreatModel(Norm.L2, 1.5)], ids=str)
def test_images_that_have_fallen_cost_no_more_queries(
    nearest_mean: nn.Module, digits: Digits, threat: ThreatModel
) -> None:
    images, labels = digits.images[:100], digits.labels[:100]
    draws = Draws.of(0, range(100))
    run = run_attack(attacks.create("square", queries=500), nearest_mean, images, labels, threat=threat, draws=draws)
    standing = int((run.logits.argmax(1) == labels).sum())
    assert run.images_forwarded < 2 * 100 + 500 * standing + 100 * (100 - standing)


SIDES = [(1, 200, 201), (4, 200, 201), (6, 142, 143), (26, 100, 101), (4999, 9, 9)]


@pytest.mark.parametrize(("query", "side", "odd"), SIDES)
def test_squares_shrink_as_published(query: int, side: int, odd: int) -> None:
    """sqrt(p) of 224 pixels, p = 0.8 halved after 10, 50, 200 ... of 10,000 queries; made odd in L2."""
    share = Square(queries=5000)._share(query)
    assert Squares(1).side(share, 224, 224) == side
    assert Pyramids(1).side(share, 224, 224) == odd


@pytest.mark.parametrize("queries", [100, 5000, 20_000])
def test_the_schedule_of_autoattack_is_not_rescaled(queries: int) -> None:
    """The code of torchattacks, told as AutoAttack tells it, for each iteration after the start."""
    theirs = torchattacks.Square(nn.Identity(), n_queries=queries, p_init=0.8, resc_schedule=False)
    ours = Square(queries=queries, variant="autoattack")
    at = range(1, min(queries, 9000), 7)
    assert [ours._share(query) for query in at] == [theirs.p_selection(query - 1) for query in at]


@pytest.mark.parametrize("kind", [Squares, Pyramids])
@pytest.mark.parametrize("to_edge", [True, False])
def test_windows_of_autoattack_end_before_the_last_row_and_column(
    kind: type[Squares | Pyramids], to_edge: bool
) -> None:
    """It draws the first row and column from [0, size - side), so that the last window ends one short."""
    images = torch.full((400, 1, 8, 10), 0.5)
    drawn = torch.rand(400, kind.numbers + 1, generator=generator())
    search = kind(0.1, to_edge=to_edge)
    changed = (search.changed(images, images, drawn, 3) != 0).any(0)[0]
    assert changed[:-1, :-1].any(1).all()
    assert changed[:-1, :-1].any(0).all()
    assert changed[-1].any() == changed[:, -1].any() == to_edge


def test_windows_up_to_the_edges_and_a_rescaled_schedule_are_stronger(nearest_mean: nn.Module, digits: Digits) -> None:
    part = Digits(digits.images[::4], digits.labels[::4])

    def left(variant: str) -> int:
        run = run_attack(
            attacks.create("square", queries=400, variant=variant),
            nearest_mean,
            part.images,
            part.labels,
            threat=ThreatModel(Norm.LINF, 0.1),
            draws=Draws.of(0, range(len(part.labels))),
        )
        return int(robust(run, part.labels).sum())

    assert left("autoattack") >= left("rescaled") + 5


@pytest.mark.parametrize(
    ("height", "width", "largest"),
    [(1, 1, 1), (1, 9, 1), (2, 5, 1), (3, 3, 3), (4, 7, 3), (8, 8, 7), (32, 32, 31), (33, 20, 19)],
)
@pytest.mark.parametrize("share", [1, 0.8, 0.1, 0.001])
def test_windows_in_l2_are_odd_and_inside(height: int, width: int, largest: int, share: float) -> None:
    side = Pyramids(1).side(share, height, width)
    assert side % 2 == 1
    assert min(3, largest) <= side <= largest
    drawn = torch.tensor([[0, 0], [0.5, 0.5], [1 - 2**-24, 1 - 2**-24]])
    window = _Window.at(drawn, torch.empty(3, 1, height, width), side)
    inside = window.mask()
    assert inside.shape == (3, 1, height, width)
    assert inside.sum((1, 2, 3)).tolist() == [side * side] * 3
    assert inside[0, 0, :side, :side].all()
    assert inside[2, 0, -side:, -side:].all()
    pattern = torch.arange(1.0, side * side + 1).view(side, side)
    filled = window.filled(pattern, torch.tensor([False, False, True]))
    assert torch.equal(filled[0, 0, :side, :side], pattern)
    assert torch.equal(filled[2, 0, -side:, -side:], pattern.T)
    assert torch.equal(filled != 0, inside)


def test_two_pyramids_by_hand() -> None:
    """Sums of 1, 1/4 and 1/9 from the ring to the outermost one: 5/4 and 1/4; 49/36, 13/36 and 4/36."""
    of_three = torch.tensor([[1, 5, 1], [0, 0, 0], [0, 0, 0]]) / 27**0.5 - (
        torch.tensor([[0, 0, 0], [1, 1, 1], [1, 5, 1]]) / 30**0.5
    )
    assert torch.allclose(_two_pyramids(3).float(), of_three / 2**0.5)
    foot, middle = [4.0, 13, 13, 13, 4], [4.0, 13, 49, 13, 4]
    halves = (torch.tensor([foot, middle]), torch.tensor([foot, middle, foot]))
    of_five = torch.cat([halves[0] / halves[0].norm(), -halves[1] / halves[1].norm()])
    assert torch.allclose(_two_pyramids(5).float(), of_five / 2**0.5)
    assert _two_pyramids(1).tolist() == [[-1]]


def test_tiles_of_two_pyramids_to_begin_with() -> None:
    """In 11 x 16 pixels five by eight tiles of 2 x 2, the last row left over; a sign each channel, lying or standing for all."""
    images = torch.zeros(30, 3, 11, 16, dtype=torch.float64)

    difference = Pyramids(0.7).start(images, Draws.of(0, range(30)))
    assert difference.flatten(1).norm(dim=1).tolist() == pytest.approx([0.7] * 30)
    assert (difference[:, :, 10] == 0).all()
    tiles = difference[:, :, :10].unflatten(2, (5, 2)).unflatten(4, (8, 2)).transpose(3, 4) / 0.7 * (3 * 5 * 8) ** 0.5
    lying = _two_pyramids(2)
    kinds = torch.stack([lying, -lying, lying.T, -lying.T])  # (4, 2, 2)
    alike = (tiles.unsqueeze(-3) - kinds).abs().amax((-2, -1)) < 1e-9  # (N, C, 5, 8, 4)
    assert (alike.sum(-1) == 1).all()
    assert (alike.flatten(0, 3).sum(0) > 700).all()
    standing = alike[..., 2:].any(-1)
    assert (standing == standing[:, :1]).all()
    assert not (alike[:, :1] == alike).all()


def test_a_query_in_l2_moves_length_into_the_first_window() -> None:
    """Alg. 3 by hand: windows of 3 x 3 at the upper left and, overlapping in one pixel, at (2, 2) of 5 x 5."""
    eps, images = 2.0, torch.full((1, 2, 5, 5), 0.5, dtype=torch.float64)
    before = torch.randn(images.shape, generator=generator(1), dtype=torch.float64) / 10
    before[:, 1, :3, :3] = 0  # an empty window takes the new pattern as it is
    drawn = torch.tensor([[0, 0, 0.9, 0.9, 0.7, 0.2, 0.8]])  # places, not turned, signs + and -
    after = Pyramids(eps).changed(images, images + before, drawn, 3)
    assert after.norm().item() == pytest.approx(eps)

    first, second = torch.zeros(2, 5, 5, dtype=torch.bool)
    first[:3, :3], second[2:, 2:] = True, True
    assert torch.allclose(after[..., ~(first | second)], before[..., ~(first | second)])
    assert (after[..., second & ~first] == 0).all()
    for channel, sign in ((0, 1), (1, -1)):
        held = before[0, channel][first | second].square().sum() + (eps**2 - before.square().sum()) / 2
        old = before[0, channel, :3, :3]
        mixed = sign * _two_pyramids(3) + (old / old.norm() if old.any() else 0)
        assert torch.allclose(after[0, channel, :3, :3], mixed / mixed.norm() * held.sqrt())


def test_what_cancels_is_not_blown_up() -> None:
    """The old pattern with the opposite sign leaves rounding alone, which is no direction; the other pixels take the length."""
    images, before = torch.full((1, 1, 3, 6), 0.5), torch.zeros(1, 1, 3, 6)
    before[..., :3] = 0.1 * _two_pyramids(3)
    before[..., 5] = 0.01
    after = Pyramids(0.2).changed(images, images + before, torch.tensor([[0, 0, 0, 0, 0.7, 0.7]]), 3)
    assert after[..., :3].norm() < 0.2 * after[..., 5].norm()


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 1, 9), (1, 9, 1), (1, 2, 5), (3, 4, 4), (1, 8, 8), (3, 96, 64)], ids=str
)
def test_images_of_any_size(norm: Norm, shape: tuple[int, int, int]) -> None:
    size = torch.Size(shape).numel()
    linear = nn.Linear(size, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(3, size, generator=generator(1)))
        linear.bias.zero_()
    model = nn.Sequential(nn.Flatten(), linear).eval()
    images = torch.rand(6, *shape, generator=generator(2))
    labels = model(images).argmax(1)
    for eps in (0, 0.01, 1):
        attack, threat = attacks.create("square", queries=300), ThreatModel(norm, eps)
        run = run_attack(attack, model, images, labels, threat=threat, draws=draws(images, 3))
        assert run.within_budget.all()
        assert torch.equal(run.adversarial, images) is (eps == 0)


def test_half_of_the_numbers_are_a_plus() -> None:
    drawn = torch.tensor([[0, 0.49, 0.51], [0.99, 0, 0.5]])
    assert _signs(drawn, torch.empty(0)).tolist() == [[1, 1, -1], [-1, 1, -1]]
