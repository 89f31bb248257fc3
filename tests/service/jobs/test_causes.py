"""Why a shard failed is said in a line: by exceptions that cannot be pickled, signals, exit codes, time-outs of real processes."""

import os
import pickle
import pkgutil
import signal
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from importlib import import_module

import pytest
import torch
from pebble import ProcessExpired

import attacks
import common
import evaluation
import models
import service
from evaluation import Catalog, EvaluationSpec, make_plan
from evaluation.results.protocol import Work
from service.jobs import executors
from service.jobs.executors import DeviceExecutor, compute
from service.jobs.failures import Fault, ShardError, describe, failure_of
from service.jobs.store import MAX_FAILURES, MAX_KILLS, Store
from tests.server import DEADLINE_S, a_plan
from tests.service.jobs.stores import claim, read


def of_the_project() -> Iterator[type[Exception]]:
    """All exception types that its packages define."""
    for package in (attacks, common, evaluation, models, service):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                import_module(module.name)
    known = [Exception]
    for kind in known:
        known += [each for each in kind.__subclasses__() if each not in known]
    packages = ("attacks", "common", "evaluation", "models", "service")
    return (each for each in known if each.__module__.partition(".")[0] in packages)


@pytest.mark.parametrize("kind", [*of_the_project()], ids=lambda kind: kind.__name__)
def test_what_any_error_says_survives_the_way_between_processes(
    kind: type[Exception], catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = kind.__new__(kind)
    error.args = ("what was wrong",)

    def fail() -> None:
        raise error

    monkeypatch.setattr(executors, "_worker", fail)
    plan = make_plan(EvaluationSpec(models=("tiny",), dataset="shapes"), catalog)
    with pytest.raises(ShardError) as raised:
        compute(catalog, Work(plan, plan.shards[0]))
    again = pickle.loads(pickle.dumps(raised.value))
    assert type(again) is ShardError
    assert str(again).startswith(f"{kind.__name__}: ")


def test_an_error_of_a_models_own_code_says_where() -> None:
    layer = torch.nn.Linear(3, 2)
    with pytest.raises(RuntimeError) as raised:
        layer(torch.zeros(1, 4))
    said = describe(raised.value)
    assert said.startswith("RuntimeError: ")
    assert "mat1 and mat2 shapes cannot be multiplied" in said
    assert "forward: return F.linear(input, self.weight, self.bias)]" in said
    assert said.count(".py:") == 3
    assert "\n" not in said
    assert describe(ValueError("one\ntwo")) == "ValueError: one"


@pytest.mark.parametrize(
    ("how", "started", "fault", "said"),
    [
        (signal.SIGKILL, True, Fault.OUTSIDE, "killed by SIGKILL while it computed; was there too little memory?"),
        (signal.SIGTERM, True, Fault.OUTSIDE, "killed by SIGTERM while it computed"),
        (signal.SIGSEGV, True, Fault.SHARD, "killed by SIGSEGV while it computed"),
        (signal.SIGKILL, False, Fault.DEVICE, "killed by SIGKILL before it began the shard"),
    ],
)
def test_a_signal_is_named_and_somebodys_fault(how: signal.Signals, started: bool, fault: Fault, said: str) -> None:
    failure = failure_of(ProcessExpired("Abnormal termination", code=-how), started=started)
    assert (failure.fault, said in failure.message) == (fault, True), failure.message


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_signal_that_ended_a_real_process_is_known(how: signal.Signals) -> None:
    executor = DeviceExecutor("cpu", timeout_s=DEADLINE_S)
    try:
        process = executor.submit(os.getpid).result(DEADLINE_S)
        with pytest.raises(ProcessExpired) as raised:
            executor.submit(os.kill, process, how).result(DEADLINE_S)
    finally:
        executor.shutdown(cancel_futures=True)
    assert f"was killed by {how.name}" in failure_of(raised.value, started=True).message


def test_an_exit_and_a_time_out_say_what_they_are() -> None:
    ended = failure_of(ProcessExpired("Abnormal termination", code=3), started=True)
    assert (ended.fault, "ended with exit code 3 while it computed" in ended.message) == (Fault.SHARD, True)
    late = failure_of(FutureTimeoutError(), started=True)
    assert late.message.startswith("the shard ran longer than WITHSTAND_SHARD_TIMEOUT_S allows")


def test_kills_from_outside_are_counted_apart_and_deaths_of_a_device_not_at_all(store: Store) -> None:
    store.submit(a_plan(images=100))
    for _ in range(2 * MAX_KILLS):
        store.fail(claim(store).id, "no device", Fault.DEVICE)
    for _ in range(MAX_FAILURES - 1):
        store.fail(claim(store).id, "raised")
    for _ in range(MAX_KILLS - 1):
        store.fail(claim(store).id, "killed", Fault.OUTSIDE)
    assert not read(store).status.final
    store.fail(claim(store).id, "killed for the last time", Fault.OUTSIDE)
    assert (read(store).status, read(store).progress.error) == ("failed", "killed for the last time")
