"""Device processes: they compute, are killed, die, and never outlive their parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from shutil import copyfile

import pytest
import torch
from pebble import ProcessExpired

from common.cores import cores
from evaluation import Catalog, EvaluationSpec, Plan, make_plan, preset, run_shard
from evaluation.results.protocol import Work
from service.jobs.executors import DeviceExecutor, ProgressFile, available_devices, compute
from service.jobs.failures import ShardError
from tests.conftest import Put
from tests.forking import python
from tests.server import DEADLINE_S, until

LONG_S = 600.0

PARENT = f"""
from service.jobs.executors import DeviceExecutor
call = "import time; print('a call is running', flush=True); time.sleep({LONG_S})"
DeviceExecutor("cpu", timeout_s={LONG_S}).submit(exec, call).result()
"""


@pytest.fixture(scope="module")
def executor() -> Iterator[DeviceExecutor]:
    started = DeviceExecutor("cpu", timeout_s=LONG_S)
    yield started
    started.shutdown(cancel_futures=True)


def process_of(executor: DeviceExecutor) -> int:
    return executor.submit(os.getpid).result(DEADLINE_S)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_shard_computed_in_the_process_equals_one_computed_here(executor: DeviceExecutor, catalog: Catalog) -> None:
    spec = EvaluationSpec(models=("tiny",), dataset="shapes", images=6, conditions=preset("san-pgd"))
    plan = make_plan(spec, catalog)
    shard = plan.shards[1]
    there = executor.submit(compute, catalog, Work(plan, shard)).result(DEADLINE_S)
    roles = catalog.load_folded("tiny", "cpu", spec.precision)
    here = run_shard(spec, shard, dataset=catalog.open_dataset("shapes"), **roles._asdict())
    assert there.rows == here.rows
    assert there.images_forwarded == here.images_forwarded
    assert process_of(executor) != os.getpid()


def test_an_error_in_a_call_is_the_callers_and_the_process_goes_on(executor: DeviceExecutor) -> None:
    before = process_of(executor)
    with pytest.raises(ZeroDivisionError):
        executor.submit(divmod, 1, 0).result(DEADLINE_S)
    with pytest.raises(Exception, match="pickle"):
        executor.submit(lambda: None).result(DEADLINE_S)
    assert process_of(executor) == before


def test_cancelling_a_running_call_kills_its_process(executor: DeviceExecutor) -> None:
    before = process_of(executor)
    call = executor.submit(time.sleep, LONG_S)
    until(call.running)
    assert call.cancel()
    until(lambda: not alive(before))
    assert process_of(executor) != before
    with pytest.raises(CancelledError):
        call.result()


def test_the_death_of_the_process_fails_the_call_and_the_next_one_gets_a_new_process(executor: DeviceExecutor) -> None:
    before = process_of(executor)
    call = executor.submit(time.sleep, LONG_S)
    until(call.running)
    os.kill(before, signal.SIGKILL)
    with pytest.raises(ProcessExpired, match="Abnormal termination"):
        call.result(DEADLINE_S)
    assert process_of(executor) != before


def test_a_process_that_dies_with_nothing_to_do_is_replaced(executor: DeviceExecutor) -> None:
    before = process_of(executor)
    os.kill(before, signal.SIGKILL)
    until(lambda: not alive(before))
    try:
        after = process_of(executor)
    except RuntimeError:  # the call came before the death was noticed, and failed of it
        after = process_of(executor)
    assert after != before


def test_a_call_that_comes_while_its_pool_breaks_fails(
    executor: DeviceExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The executor looks at its pool, whose process is dead; before it hands the call over, the pool has noticed."""
    before = process_of(executor)
    pool = executor._running_pool()
    os.kill(before, signal.SIGKILL)
    until(lambda: not pool.active)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(executor, "_running_pool", lambda: pool)
        meanwhile.setattr(pool, "_check_pool_status", lambda: None)
        call = executor.submit(os.getpid)
    assert isinstance(call.exception(DEADLINE_S), BrokenProcessPool)
    assert process_of(executor) != before


def test_a_pool_that_breaks_while_it_starts_is_no_fault_of_the_call(
    executor: DeviceExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.kill(process_of(executor), signal.SIGKILL)
    pool = executor._running_pool()
    until(lambda: not pool.active)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(executor, "_running_pool", lambda: pool)
        with pytest.raises(BrokenProcessPool):
            executor.submit(os.getpid)


def test_a_call_that_takes_too_long_is_killed() -> None:
    hasty = DeviceExecutor("cpu", timeout_s=0.2)
    before = process_of(hasty)
    with pytest.raises(TimeoutError):
        hasty.submit(time.sleep, LONG_S).result(DEADLINE_S)
    until(lambda: not alive(before))
    hasty.shutdown(cancel_futures=True)


@pytest.mark.slow
def test_the_process_ends_when_its_parent_is_killed() -> None:
    """The device process shares its parent's output, which ends when the last process that holds it has ended."""
    with subprocess.Popen(python(PARENT), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "a call is running\n"
        parent.kill()
        assert parent.communicate(timeout=DEADLINE_S) == ("", None)


def test_after_the_shutdown_nothing_is_accepted() -> None:
    idle = DeviceExecutor("cpu", timeout_s=LONG_S)
    idle.shutdown(wait=False)
    with pytest.raises(RuntimeError):
        idle.submit(os.getpid)


@pytest.fixture
def mine(put_checkpoint: Put, shapes_zip: Path, tmp_path: Path) -> Plan:
    """An evaluation of files that may be changed."""
    put_checkpoint(tmp_path, "mine")
    copyfile(shapes_zip, tmp_path / "pictures.zip")
    return make_plan(EvaluationSpec(models=("mine",), dataset="pictures"), Catalog((tmp_path,), (tmp_path,)))


def add_a_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(0, 0))


def test_a_checkpoint_a_card_or_data_that_changed_after_submission_is_refused(
    mine: Plan, put_checkpoint: Put, tmp_path: Path
) -> None:
    catalog = Catalog((tmp_path,), (tmp_path,))
    assert len(compute(catalog, Work(mine, mine.shards[0])).rows) == 33
    put_checkpoint(tmp_path, "mine", classes=("square", "disc", "stripes"))
    with pytest.raises(
        ShardError, match=f"CheckpointError: mine has changed since .*, then {mine.model_sha256['mine']}"
    ):
        compute(catalog, Work(mine, mine.shards[0]))
    add_a_byte(put_checkpoint(tmp_path, "mine"))
    with pytest.raises(ShardError, match="CheckpointError: mine has changed since the evaluation was submitted"):
        compute(catalog, Work(mine, mine.shards[0]))
    put_checkpoint(tmp_path, "mine")
    add_a_byte(tmp_path / "pictures.zip")
    with pytest.raises(ShardError, match=f"DatasetError: pictures has changed since .*, then {mine.dataset_sha256}"):
        compute(catalog, Work(mine, mine.shards[0]))


def test_there_is_a_device() -> None:
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    assert available_devices() == (gpus or [f"cpu:{index}" for index in range(min(cores(), 4))])
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_progress_that_cannot_be_written_costs_no_shard(tmp_path: Path) -> None:
    progress = ProgressFile(tmp_path / "gone" / "1")
    progress.write(20, 100)
    assert progress.read() == 0.0
    progress.path.parent.mkdir()
    progress.write(20, 100)
    assert progress.read() == 0.2


def die_while_sending() -> None:
    """End as a process that is killed while it holds the lock with which it sends its result."""
    frame = sys._getframe()
    while "channel" not in frame.f_locals:
        assert frame.f_back is not None
        frame = frame.f_back
    frame.f_locals["channel"].mutex.writer_mutex.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_while_it_sends_holds_up_no_other() -> None:
    executor = DeviceExecutor("cpu", timeout_s=60)
    try:
        assert isinstance(executor.submit(die_while_sending).exception(60), ProcessExpired)
        assert executor.submit(abs, -1).result(30) == 1
    finally:
        executor.shutdown(cancel_futures=True)
