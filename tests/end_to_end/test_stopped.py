"""A stopped server is replaced as dispatcher, and killing the parent of several ends them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from evaluation import Catalog
from tests.end_to_end.processes import alive, children, free_port, server, wait_for
from withstand import Client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLEAN = {"models": ["tiny"], "dataset": "shapes", "conditions": [{"kind": "clean"}]}


def dispatcher_of(url: str) -> str:
    return httpx.get(f"{url}/readyz", timeout=60).json()["dispatcher"]


def test_a_stopped_dispatcher_is_replaced_and_stays_so_when_it_wakes(catalog: Catalog, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with server(catalog, tmp_path, log) as (first, client), server(catalog, tmp_path, log) as (_, other):
        assert (dispatcher_of(client.url), dispatcher_of(other.url)) == ("active", "standby")
        first.send_signal(signal.SIGSTOP)
        try:
            submitted = other.submit(CLEAN)
            wait_for(lambda: dispatcher_of(other.url) == "active", timeout_s=15)
            *_, last = other.watch(submitted["id"])
            assert last["status"] == "done"
        finally:
            first.send_signal(signal.SIGCONT)
        wait_for(lambda: dispatcher_of(client.url) == "standby", timeout_s=15)
        assert dispatcher_of(other.url) == "active"


def test_killing_the_parent_of_several_servers_ends_them_and_frees_the_port(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "cli.main", "serve", "--workers", "2", "--port", str(port)]
    started = subprocess.Popen([*command, "--data-dir", str(tmp_path)], env=os.environ)

    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            wait_for(client.ready)
        ours = children(started.pid)
        ours += [each for child in ours for each in children(child)]
    finally:
        started.kill()
        started.wait()
    wait_for(lambda: not any(alive(pid) for pid in ours), timeout_s=10)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/healthz")
