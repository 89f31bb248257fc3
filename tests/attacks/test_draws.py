"""Random draws against plain Python, and the statistics that a weaker mixer fails."""

import hashlib
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from attacks import Draws
from attacks.draws import blocks_of_words, random_words
from attacks.transforms.corruptions.noise import _poisson

GOLDEN, PER_INDEX, PER_STREAM = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0xABC98388FB8FAC03
ALL = 2**64 - 1


def mix(word: int) -> int:
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & ALL
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & ALL
    return word ^ (word >> 31)


def key(seed: int, index: int, *streams: int) -> int:
    word = mix(mix((seed + GOLDEN) & ALL) + (index + 1) * PER_INDEX & ALL)
    for stream in streams:
        word = mix(word + (stream + 1) * PER_STREAM & ALL)
    return word


def bits(seed: int, index: int, stream: int, element: int) -> int:
    word = mix(key(seed, index, stream) + (element // 2 + 1) * GOLDEN & ALL)
    return word >> 32 * (element % 2) & 0xFFFFFFFF


def test_splitmix_is_the_published_one() -> None:
    """The first numbers from the seed 1234567, as in the tests of several libraries."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [mix(1234567 + (n + 1) * GOLDEN & ALL) for n in range(4)] == published
    words = random_words(torch.tensor([1234567]), 4)
    assert [word % 2**64 for word in words[0].tolist()] == published


@settings(deadline=None)
@given(
    st.integers(0, 2**63 - 1), st.integers(0, 10**7), st.integers(0, 10**4), st.integers(1, 9), st.integers(1, 2**31)
)
def test_draws_are_those_of_plain_python(seed: int, index: int, stream: int, count: int, high: int) -> None:
    draws = Draws.of(seed, [3, index]).stream(stream)
    of_image = [bits(seed, index, stream, element) for element in range(count)]
    signed = [((each ^ 2**31) >> 8) * 2**-24 for each in of_image]
    assert draws.uniform(torch.empty(2, count))[1].tolist() == signed
    assert draws.integers(high, count)[1].tolist() == [each * high >> 32 for each in of_image]


def test_a_drawn_number_never_changes() -> None:
    """Results that are stored depend on it."""
    drawn = Draws.of(7, range(5)).stream(2).uniform(torch.empty(5, 3, 50, 41))
    assert hashlib.sha256(drawn.numpy().tobytes()).hexdigest()[:16] == "a989abb690938911"


@pytest.mark.parametrize("count", [0, 1, 100, 15 * 2**10, 15 * 2**10 + 1, 40_000])
@pytest.mark.parametrize("images", [0, 1, 4, 200])
def test_blocks_in_the_cache_hold_the_words_of_any_device(images: int, count: int) -> None:
    keys = Draws.of(0, range(images)).keys
    words = torch.zeros(images, count, dtype=torch.int64)
    for rows, columns, block in blocks_of_words(keys, count):
        words[rows, columns] += block
    assert torch.equal(words, random_words(keys, count))


Kind = Callable[[Draws, Tensor], Tensor]
KINDS: dict[str, Kind] = {
    "uniform": Draws.uniform,
    "normal": Draws.normal,
    "integers": lambda draws, like: draws.integers(7, *like.shape[1:]),
    "poisson": lambda draws, like: _poisson(like.fill_(3.4), 5, draws),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("shape", [(3, 5, 5), (3, 150, 150)])
def test_any_images_in_any_order_draw_the_same(kind: Kind, shape: tuple[int, ...]) -> None:
    draws = Draws.of(1, range(20))
    whole = kind(draws, torch.empty(20, *shape))
    for chosen in (torch.tensor([7]), torch.tensor([19, 3, 4]), torch.arange(20) % 3 == 0):
        assert torch.equal(kind(draws[chosen], torch.empty(20, *shape)[chosen]), whole[chosen])
    assert torch.equal(kind(Draws.of(1, [19, 3]), torch.empty(2, *shape)), whole[[19, 3]])


def test_neighbouring_seeds_images_and_streams_share_nothing() -> None:
    found = [Draws.of(seed, range(1000)).stream(stream).keys for seed in range(20) for stream in range(20)]
    assert len(torch.cat(found).unique()) == 400_000
    nested = [Draws.of(0, [0]).stream(a).stream(b).keys for a in range(30) for b in range(30)]
    assert len(torch.cat(nested).unique()) == 900


def test_refused_with_what_is_allowed() -> None:
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match=rf"from 0 to 2\*\*63 - 1, got {seed}"):
            Draws.of(seed, [0])
    with pytest.raises(ValueError, match="draws of 1 images cannot fill a tensor of 2"):
        Draws.of(0, [0]).uniform(torch.empty(2, 3))


def chi_square(counts: Tensor) -> float:
    """p value of equal odds."""
    return float(stats.chisquare(counts.numpy().ravel()).pvalue)


def sound(drawn: Tensor) -> bool:
    """Whether numbers (N, D) in [0, 1) look even alone, in pairs and triples along both axes, and uncorrelated."""
    p_values = [chi_square(torch.bincount((drawn * 256).long().ravel(), minlength=256))]
    p_values += [chi_square(torch.bincount((drawn * 2**16).long().ravel() % 256, minlength=256))]
    correlations: list[float] = []
    for numbers in (drawn, drawn.T.contiguous()):
        flat = numbers.ravel()
        for size, places in ((2, 32), (3, 12)):
            cells = (flat[: len(flat) // size * size].view(-1, size) * places).long()
            index = (cells * torch.tensor([places**power for power in range(size)])).sum(1)
            p_values.append(chi_square(torch.bincount(index, minlength=places**size)))
        for lag in (1, 2, 3, 64, numbers.shape[1] - 1, numbers.shape[1] + 1):
            correlations.append(float(np.corrcoef(flat[:-lag], flat[lag:])[0, 1]) * len(flat) ** 0.5)
    mean = float(drawn.mean() - 0.5) * (12 * drawn.numel()) ** 0.5
    variance = float(12 * drawn.var() - 1) * (5 * drawn.numel() / 4) ** 0.5
    return min(p_values) > 1e-5 and all(abs(each) < 5 for each in (*correlations, mean, variance))


LIKE = torch.empty(1000, 1000, dtype=torch.float64)


def test_elements_and_images_are_even_and_independent() -> None:
    assert sound(Draws.of(0, range(1000)).uniform(LIKE))
    assert sound(Draws.of(2**62, range(10**6, 10**6 + 1000)).stream(5).uniform(LIKE))


def test_streams_and_seeds_are_even_and_independent() -> None:
    image, place = Draws.of(0, [0]), LIKE[:1]
    assert sound(torch.cat([image.stream(number).uniform(place) for number in range(1000)]))
    assert sound(torch.cat([Draws.of(seed, [0]).uniform(place) for seed in range(1000)]))


def test_a_broken_mixer_is_not_sound() -> None:
    """Without the final mixing, and with keys that are not mixed, by which images hold the same numbers one place on."""
    steps = torch.arange(1, 1001) * (GOLDEN - 2**64)
    not_mixed = Draws.of(0, range(1000)).keys[:, None] + steps
    shifted_images = torch.stack([random_words(key, 1000)[0] for key in steps.split(1)])
    for words in (not_mixed, shifted_images):
        assert not sound(((words >> 40) & (2**24 - 1)).double() * 2**-24)


def test_normal_numbers_are_normal() -> None:
    drawn = Draws.of(3, range(100)).normal(torch.empty(100, 10_000, dtype=torch.float64)).ravel()
    n = len(drawn)
    assert stats.kstest(drawn.numpy(), "norm").pvalue > 1e-4
    assert abs(drawn.mean()) < 5 / n**0.5
    assert abs(drawn.square().mean() - 1) < 5 * (2 / n) ** 0.5
    assert abs((drawn**3).mean()) < 5 * (15 / n) ** 0.5
    assert abs((drawn**4).mean() - 3) < 5 * (96 / n) ** 0.5
    assert drawn.abs().max() > 4
    assert abs(np.corrcoef(drawn[::2], drawn[1::2])[0, 1]) < 5 * (2 / n) ** 0.5
    assert drawn.isfinite().all()


@pytest.mark.parametrize("high", [1, 2, 7, 1000])
def test_integers_are_evenly_drawn(high: int) -> None:
    drawn = Draws.of(4, range(1000)).integers(high, 500)
    assert 0 <= drawn.min() <= drawn.max() < high
    assert high == 1 or chi_square(torch.bincount(drawn.ravel(), minlength=high)) > 1e-5


@pytest.mark.parametrize("rate", [0.0, 0.003, 0.7, 1.0, 4.4, 59.9, 60.0, 431.6, 500.0])
def test_counts_are_those_of_poisson(rate: float) -> None:
    counts = _poisson(torch.full((100, 2000), rate, dtype=torch.float64), 500, Draws.of(0, range(100))).ravel().numpy()
    edges = np.unique(stats.poisson(rate).ppf(np.linspace(0.001, 0.999, 40)))
    expected = np.diff([0, *stats.poisson(rate).cdf(edges), 1]) * len(counts)
    found = np.bincount(np.searchsorted(edges, counts), minlength=len(expected))
    if rate == 0:
        assert (counts == 0).all()
        return
    kept = expected > 5
    merged = [np.append(each[kept], each[~kept].sum()) if (~kept).any() else each for each in (found, expected)]
    kept = merged[1] > 0
    assert stats.chisquare(merged[0][kept], merged[1][kept] * merged[0].sum() / merged[1].sum()).pvalue > 1e-5
    assert counts.mean() == pytest.approx(rate, abs=5 * (rate / len(counts)) ** 0.5)


def test_consecutive_draws_differ_by_purpose() -> None:
    draws = Draws.of(0, range(50))
    drawn = [
        each.uniform(torch.empty(50, 400))
        for each in (draws, draws.stream(0), draws.stream(0).stream(0), draws.stream(1))
    ]
    for one, other in itertools.combinations(drawn, 2):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / one.numel() ** 0.5
