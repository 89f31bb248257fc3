import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.statistics import proportion


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [
        # Published values of the Wilson interval without continuity correction: Newcombe 1998, Table I.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_interval_equals_the_published_one(count: int, n: int, low: float, high: float) -> None:
    result = proportion(count, n)
    assert result is not None
    assert (round(result.low, 4), round(result.high, 4)) == (low, high)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_holds_the_value_and_is_symmetric_in_failures(pair: tuple[int, int]) -> None:
    count, n = pair
    result, mirrored = proportion(count, n), proportion(n - count, n)
    assert result is not None
    assert mirrored is not None
    assert 0 <= result.low <= result.value <= result.high <= 1
    assert result.low == pytest.approx(1 - mirrored.high)


def test_of_nothing_there_is_no_proportion() -> None:
    assert proportion(0, 0) is None


@pytest.mark.parametrize(("count", "n"), [(-1, 5), (6, 5)])
def test_impossible_counts_are_refused(count: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"between 0 and n, got {count} of 5"):
        proportion(count, n)
