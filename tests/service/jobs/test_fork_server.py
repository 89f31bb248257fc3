"""Device processes come from one process that has imported what they need; a server that has work left starts it first."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from service.jobs.executors import DeviceExecutor
from service.jobs.fork_server import FORKS, has_unfinished
from service.jobs.store import Store
from tests.server import DEADLINE_S, a_plan
from tests.service.jobs.stores import claim, complete

IS_THERE = "'torchvision' in __import__('sys').modules"


@pytest.mark.skipif(not FORKS, reason="processes are forked on Linux alone")
def test_device_processes_share_what_one_process_has_imported() -> None:
    parents: set[int] = set()
    for device in ("cpu:0", "cpu:1"):
        executor = DeviceExecutor(device, timeout_s=DEADLINE_S)
        assert executor.submit(eval, IS_THERE).result(DEADLINE_S), "no call has imported it"
        parents.add(executor.submit(os.getppid).result(DEADLINE_S))
        executor.shutdown()
    assert len(parents) == 1
    assert os.getpid() not in parents


def test_work_that_is_left_is_seen_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "withstand.db"
    assert not has_unfinished(path)
    assert not path.exists()
    with closing(Store.at(path)) as store:
        assert not has_unfinished(path)
        store.submit(a_plan(images=1))
        assert has_unfinished(path)
        claimed = claim(store)
        assert has_unfinished(path)
        complete(store, claimed)
        assert not has_unfinished(path)
    path.write_bytes(b"no database")
    assert not has_unfinished(path)
