import pytest
from torch import nn

from tests.attacks import digits as known


@pytest.fixture(scope="session")
def digits() -> known.Digits:
    return known.load()


@pytest.fixture(scope="session")
def nearest_mean(digits: known.Digits) -> nn.Module:
    return known.nearest_mean(digits)


@pytest.fixture(scope="session")
def network(digits: known.Digits) -> nn.Module:
    return known.small_network(digits)
