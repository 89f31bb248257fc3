"""Each reader meets damaged files for a few seconds; `make fuzz` does so for longer."""

import pytest

from tests.fuzz import fuzz, targets

SHORT_S = 3.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", targets())
def test_damaged_files_are_refused_or_read(name: str) -> None:
    assert fuzz(targets()[name], SHORT_S, seed=0) > 50
