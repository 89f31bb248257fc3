"""What the processes of a service have in common: numbers for their limits, and what they are told."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from models import CheckpointError
from service.serving.errors import StuckError
from service.serving.shared_counts import SharedCounts
from service.serving.siblings import Siblings
from tests.server import DEADLINE_S, until

SPAWN = multiprocessing.get_context("spawn")


def count_in(folder: Path, pipe: Connection) -> None:
    """Set numbers as told, until there are no more."""
    counts = SharedCounts(folder, processes=2)
    pipe.send(None)
    while (told := pipe.recv()) is not None:
        counts.set(*told)
        pipe.send(None)


def obey_in(folder: Path, pipe: Connection) -> None:
    """Obey until told to end."""
    siblings = Siblings(folder, obey)
    siblings.start()
    pipe.send(None)
    pipe.recv()
    siblings.stop()


def obey(order: str, *of: str) -> Any:
    match order:
        case "refuse":
            raise CheckpointError(f"{of[0]} is broken")
        case "hang":
            signal.pause()
    return [order, *of, os.getpid()]


Start = Callable[[Callable[[Path, Connection], None]], tuple[Any, Connection]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a process of the service, with a pipe to it; it is ready."""
    started: list[tuple[Any, Connection]] = []

    def start(what: Callable[[Path, Connection], None]) -> tuple[Any, Connection]:
        here, there = multiprocessing.Pipe()
        process = SPAWN.Process(target=what, args=(tmp_path, there), daemon=True)
        process.start()
        started.append((process, here))
        assert here.poll(DEADLINE_S)
        here.recv()
        return process, here

    yield start
    for process, _pipe in started:
        process.kill()
        process.join()


def test_numbers_of_another_process_are_seen_and_gone_once_it_is_replaced(tmp_path: Path, start: Start) -> None:
    counts = SharedCounts(tmp_path, processes=2)
    process, pipe = start(count_in)
    assert counts.elsewhere("pictures of a") == 0
    for told, seen in ((("pictures of a", 3), 3), (("pictures of b", 5), 3), (("pictures of a", 1), 1)):
        pipe.send(told)
        pipe.recv()
        assert counts.elsewhere("pictures of a") == seen
    counts.set("pictures of b", 7)
    assert counts.elsewhere("pictures of b") == 5, "its own are not elsewhere"
    process.kill()
    process.join()
    start(count_in)
    assert counts.elsewhere("pictures of b") == 0


def test_no_process_is_counted_twice(tmp_path: Path) -> None:
    first, second = SharedCounts(tmp_path, processes=2), SharedCounts(tmp_path, processes=2)
    first.set("pixels", 1)
    assert (first.elsewhere("pixels"), second.elsewhere("pixels")) == (0, 1)
    with pytest.raises(RuntimeError, match="has room for 2 processes, and as many run"):
        SharedCounts(tmp_path, processes=2)


def test_one_process_alone_has_no_siblings() -> None:
    counts, siblings = SharedCounts(), Siblings(None, obey)
    counts.set("pixels", 1)
    siblings.start()
    assert counts.elsewhere("pixels") == 0
    assert siblings.tell("load", "mine", "1") == []
    siblings.stop()


def test_all_others_do_what_one_is_told(tmp_path: Path, start: Start) -> None:
    siblings = Siblings(tmp_path, obey)
    siblings.start()
    processes = sorted(start(obey_in)[0].pid for _ in range(2))
    assert sorted(siblings.tell("load", "mine", "1")) == [["load", "mine", "1", each] for each in processes]
    with pytest.raises(CheckpointError, match="mine is broken"):
        siblings.tell("refuse", "mine")
    with pytest.raises(StuckError, match=r"of the service has not answered for 0\.2 s"):
        siblings.tell("hang", timeout_s=0.2)
    siblings.stop()


def test_processes_that_ended_are_not_waited_for(tmp_path: Path, start: Start) -> None:
    siblings = Siblings(tmp_path, obey)
    siblings.start()
    (killed, _), (ends, pipe), (stays, _) = (start(obey_in) for _ in range(3))
    killed.kill()
    killed.join()
    pipe.send(None)
    ends.join(DEADLINE_S)
    assert siblings.tell("load", "mine") == [["load", "mine", stays.pid]]
    until(lambda: len(list((tmp_path / "siblings").iterdir())) == 2)
    siblings.stop()
