"""What takes long is computed once, however many ask at the same time."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest

from common.once import computed_once


def test_threads_that_ask_at_the_same_time_share_one_computation() -> None:
    asked, go, computed = Barrier(9), Event(), list[str]()

    @computed_once(4)
    def compute(name: str) -> object:
        computed.append(name)
        assert go.wait(10)
        return object()

    def ask(name: str) -> object:
        asked.wait()
        return compute(name)

    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(ask, "ab"[number % 2]) for number in range(8)]
        asked.wait()
        go.set()
        found = [call.result(10) for call in calls]
    assert sorted(computed) == ["a", "b"], "and one does not wait for the other"
    assert len({*found}) == 2
    assert compute("a") is found[0]


def test_what_raises_is_computed_again() -> None:
    tries: list[int] = []

    @computed_once(4)
    def compute(number: int) -> int:
        tries.append(number)
        if len(tries) == 1:
            raise ValueError("not yet")
        return number

    with pytest.raises(ValueError, match="not yet"):
        compute(1)
    assert compute(1) == compute(1) == 1
    assert tries == [1, 1]
