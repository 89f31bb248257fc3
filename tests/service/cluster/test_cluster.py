"""Evaluations on a real cluster: nodes that join, die and come back, and a report that is the same."""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest
from pydantic import ValidationError
from sqlalchemy import select

import evaluation
import evaluation.plan
from evaluation import Catalog, merge
from evaluation.compute.runner import OnProgress
from service.cluster.cluster import RayCluster, RayExecutor
from service.jobs.dispatcher import Dispatcher
from service.jobs.evaluations import ShardStatus, Status
from service.jobs.failures import Failure, Fault, NodeLostError, failure_of
from service.jobs.queue import Queue
from service.jobs.store import Store
from service.preflight import StartError, require_startable
from service.settings import Settings
from service.sql.tables import SHARDS
from tests.conftest import without_times
from tests.server import DEADLINE_S, Server, serving, until
from tests.service.cluster.nodes import Nodes, connected
from tests.service.jobs.dispatching import plan_of, read
from tests.service.jobs.stores import on_sqlite

LONG_S = 600.0

pytestmark = pytest.mark.slow

BY_MAKE_FAULTS = pytest.mark.skipif(
    "FAULT_ROUNDS" not in os.environ, reason="takes half a minute: `make faults` runs it"
)


@contextmanager
def dispatching(store: Store, catalog: Catalog, cluster: RayCluster) -> Iterator[Dispatcher]:
    dispatcher = Dispatcher(store, catalog, cluster.executors)
    dispatcher.start()
    try:
        yield dispatcher
    finally:
        dispatcher.stop()


def process_of(executor: Executor) -> int:
    return executor.submit(os.getpid).result(DEADLINE_S)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def halfway(*, on_progress: OnProgress) -> None:
    on_progress(5, 10)
    time.sleep(LONG_S)


def attack(steps: int) -> dict[str, object]:
    attacks = [{"name": "pgd", "parameters": {"steps": steps}}]
    return {"kind": "adversarial", "threat": {"norm": "Linf", "eps": "8/255"}, "attacks": attacks}


def charged(store: Store) -> set[tuple[int, int]]:
    """Failures and kills of the shards."""
    with store.database.reading() as db:
        return {(failures, kills) for failures, kills in db.execute(select(SHARDS.c.failures, SHARDS.c.kills))}


def test_a_process_stays_until_a_cancelled_call_a_time_out_its_death_or_lack_of_memory(
    cluster: RayCluster,
) -> None:
    one, other = cluster.executors().values()
    before = process_of(one), process_of(other)
    with pytest.raises(ZeroDivisionError):
        one.submit(divmod, 1, 0).result(DEADLINE_S)
    assert (process_of(one), process_of(other)) == before

    seen: list[tuple[int, int]] = []
    slow = other.submit(time.sleep, LONG_S)
    call = one.submit(halfway, on_progress=lambda done, total: seen.append((done, total)))
    until(lambda: (5, 10) in seen)
    assert call.cancel()
    with pytest.raises(CancelledError):
        call.result()
    with pytest.raises(TimeoutError):
        slow.result(DEADLINE_S)
    between = process_of(one), process_of(other)
    assert not {*before} & {*between}
    assert not any(map(alive, before))

    large = other.submit(bytes, 2**62)
    with pytest.raises(BrokenProcessPool, match="worker process has died"):
        one.submit(os.kill, between[0], signal.SIGKILL).result(DEADLINE_S)
    with pytest.raises(MemoryError):
        large.result(DEADLINE_S)
    assert not {*between} & {process_of(one), process_of(other)}


@on_sqlite
def test_a_node_joins_and_dies_while_a_job_runs_and_the_report_is_that_of_one_machine(
    nodes: Nodes,
    cluster: RayCluster,
    store: Store,
    catalog: Catalog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(evaluation.plan, "SHARD_IMAGES", 11)
    plan = plan_of(catalog, models=["tiny", "twin"], conditions=[{"kind": "clean"}, attack(2), attack(150)])
    queue = Queue(store)
    with dispatching(store, catalog, cluster) as dispatcher:
        first = {*cluster.executors()}
        store.submit(plan)
        dispatcher.wake()
        until(lambda: read(store, plan).progress.images_done)
        queue.pause()  # it takes longer to start a node than to finish the job
        node = nodes.start_node()
        until(lambda: len(queue.devices()) == 3)
        queue.resume()
        until(lambda: any(each.name not in first and each.running is not None for each in queue.devices()))
        nodes.kill(node)
        until(lambda: {each.name for each in queue.devices()} == first)
        until(lambda: read(store, plan).status.final)
    done = read(store, plan)
    assert done.status is Status.DONE, done.progress.error
    assert done.progress.runs == len(plan.shards) + 1
    assert charged(store) == {(0, 0)}
    assert "left the cluster" in caplog.text
    report = merge(plan, store.results(plan.id))
    alone = evaluation.evaluate(plan.spec, catalog=catalog, device="cpu")
    assert without_times(report) == without_times(alone)


@on_sqlite
@BY_MAKE_FAULTS
def test_a_job_goes_on_when_the_head_is_back(nodes: Nodes, cluster: RayCluster, store: Store, catalog: Catalog) -> None:
    plan = plan_of(catalog, images=3, conditions=[attack(2), attack(1000)])
    with dispatching(store, catalog, cluster) as dispatcher:
        store.submit(plan)
        dispatcher.wake()
        until(lambda: read(store, plan).progress.shards.get(ShardStatus.DONE) == 1)
        nodes.kill_all()
        until(lambda: not Queue(store).devices())
        assert not read(store, plan).status.final
        nodes.start_head()
        until(lambda: read(store, plan).status.final)
    done = read(store, plan)
    assert (done.status, done.progress.runs) == (Status.DONE, 3), done.progress.error
    assert charged(store) == {(0, 0)}


@BY_MAKE_FAULTS
@pytest.mark.timeout(
    240
)  # on busy cores the start of its part at the head takes longer than Ray allows, and is tried again
def test_a_server_computes_on_the_cluster_and_nobody_does_without_its_token(
    nodes: Nodes, wanted: Event, settings: Settings, tmp_path: Path
) -> None:
    wanted.clear()  # as a standby does: others need the devices
    command = [sys.executable, "-c", f"import ray; ray.init(address={nodes.head!r}); print(ray.nodes())"]
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    on_ray = {"ray_address": nodes.client, "ray_cache_dir": tmp_path / "cache", "data_dir": tmp_path / "data"}
    with (
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as stranger,
        serving(settings.model_copy(update=on_ray)) as server,
    ):
        until(lambda: len(devices(server)) == 2, 150)
        assert all(
            re.fullmatch(rf"ray:{re.escape(nodes.address)}-[0-9a-f]{{6}}/cpu:[01]", each) for each in devices(server)
        )
        spec = {"models": ["tiny"], "dataset": "shapes", "images": 6, "conditions": [attack(2)]}
        submitted = server.http.post("/v1/evaluations", json=spec)
        until(lambda: server.http.get(submitted.headers["location"]).json()["status"] == "done")
        said, _ = stranger.communicate(timeout=DEADLINE_S)
    assert stranger.returncode != 0
    assert "InvalidAuthToken" in said, said


def devices(server: Server) -> list[str]:
    return [each["name"] for each in server.http.get("/v1/devices").json()["devices"]]


def test_without_a_connection_calls_fail_at_once_and_a_head_that_is_not_there_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with connected(address, tmp_path) as cluster:
        until(lambda: "does not answer and is tried again" in caplog.text)
        error = RayExecutor("ray:none/cpu:0", cluster).submit(abs, -1).exception(DEADLINE_S)
    assert isinstance(error, NodeLostError)
    assert failure_of(error, started=True) == Failure(
        Fault.DEVICE, f"there is no connection to the Ray cluster at {address}"
    )
    assert not cluster.executors()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("s3://bucket/store", r"s3://bucket/store cannot be opened: Install s3fs .*WITHSTAND_STORE_URL"),
        ("memory://store", "is the memory of one process"),
    ],
)
def test_a_server_whose_store_cannot_be_opened_does_not_start(tmp_path: Path, url: str, problem: str) -> None:
    settings = Settings(data_dir=tmp_path, port=0, ray_address="head:6379", store_url=url)
    with pytest.raises(StartError, match=problem):
        require_startable(settings)


def test_a_store_has_the_same_path_for_all() -> None:
    with pytest.raises(ValidationError, match="must be an absolute path or a URL, and is 'store'"):
        Settings(ray_address="head:6379", store_url="store")
