"""Evaluations over HTTP: many at once, and one of very many shards.

    python -m benchmarks.jobs --jobs 1000 --clients 50 --watchers 200

Prints Markdown. A real server with its device processes gets small evaluations, each of other images, from clients that pause and
submit one. Meanwhile watchers read the event streams of the first ones, and a client asks for the progress of a random one ten
times a second, until all have ended. Then it is counted whether all are there, every shard was run once, and every watcher
received the end. One more evaluation ends before, so that data and model are read and device processes are there. The clients share
the cores with the server.
The second table is about the store alone, without HTTP.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import torch

from benchmarks.cluster import plan_of
from benchmarks.pgd import hardware, table
from service.jobs.evaluations import ShardStatus, Status
from service.jobs.store import Store

START_S, TIMEOUT_S = 120.0, 60.0


@dataclass
class Load:
    """What clients saw: seconds that answers took, ids of what was accepted, events, and how many received the end."""

    submits: list[float] = field(default_factory=list[float])
    polls: list[float] = field(default_factory=list[float])
    ids: list[str] = field(default_factory=list[str])
    events: int = 0
    ends: int = 0


@asynccontextmanager
async def serving(data_dir: Path) -> AsyncGenerator[str]:
    """Start a server; yields its address once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "cli.main", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    settings = {"WITHSTAND_MAX_ADDRESS_CONNECTIONS": "1000"}  # all clients have one address
    with subprocess.Popen(command, env=os.environ | settings) as process:  # noqa: S603
        try:
            await _until_ready(f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


async def _until_ready(url: str) -> None:
    async with asyncio.timeout(START_S), httpx.AsyncClient(base_url=url) as http:
        while True:
            try:
                if (await http.get("/readyz")).is_success:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)


async def submit(http: httpx.AsyncClient, load: Load, seeds: Sequence[int], pause_s: float) -> None:
    """Submit evaluations of two images, one after the other, each after a pause of that mean."""
    for seed in seeds:
        await asyncio.sleep(random.uniform(0, 2 * pause_s))  # noqa: S311
        spec = {"models": ["resnet_mini.fashion_mnist"], "dataset": "fashion_mnist_test", "images": 2}
        body = spec | {"selection_seed": seed, "conditions": [{"kind": "clean"}]}
        began = time.perf_counter()
        answer = await http.post("/v1/evaluations", json=body)
        load.submits.append(time.perf_counter() - began)
        load.ids.append(answer.raise_for_status().json()["id"])


async def watch(http: httpx.AsyncClient, load: Load, index: int) -> None:
    """Read the events of one evaluation to its end."""
    while len(load.ids) <= index:
        await asyncio.sleep(0.05)
    async with http.stream("GET", f"/v1/evaluations/{load.ids[index]}/events", timeout=None) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            load.events += line.startswith("data")
            load.ends += line.startswith("data") and json.loads(line.removeprefix("data:"))["status"] == Status.DONE


async def poll(http: httpx.AsyncClient, load: Load, ended: asyncio.Event) -> None:
    """Ask for the progress of one evaluation after another, ten times a second."""
    while not ended.is_set():
        if load.ids:
            began = time.perf_counter()
            answer = await http.get(f"/v1/evaluations/{random.choice(load.ids)}")  # noqa: S311
            load.polls.append(time.perf_counter() - began)
            answer.raise_for_status()
        await asyncio.sleep(0.1)


async def measure(data_dir: Path, jobs: int, clients: int, watchers: int, pause_s: float) -> list[tuple[str, ...]]:
    """Rows of the first table."""
    load, ended = Load(), asyncio.Event()
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2.0)  # sooner than the server
    async with serving(data_dir) as url, httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as http:
        await submit(http, Load(), [jobs], 0)
        await _until_done(data_dir, 1)
        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for client in range(clients):
                tasks.create_task(submit(http, load, range(client, jobs, clients), pause_s))
            for index in range(min(watchers, jobs)):
                tasks.create_task(watch(http, load, index))
            tasks.create_task(poll(http, load, ended))
            await _until_done(data_dir, 1 + jobs)
            ended.set()
        seconds = time.perf_counter() - began
    runs, shards = _runs(data_dir)
    return [
        ("submitted, different, finished", f"{jobs:,}, {len({*load.ids}):,}, {shards - 1:,}"),
        ("shards run more than once", f"{runs - shards:,}"),
        ("seconds until all have ended", f"{seconds:.1f}"),
        ("submit, ms: median, 99th percentile, longest", _percentiles(load.submits)),
        ("poll, ms: median, 99th percentile, longest", _percentiles(load.polls)),
        ("watchers, ends received, events", f"{min(watchers, jobs):,}, {load.ends:,}, {load.events:,}"),
    ]


async def _until_done(data_dir: Path, shards: int) -> None:
    while _runs(data_dir)[1] < shards:
        await asyncio.sleep(0.5)


def _runs(data_dir: Path) -> tuple[int, int]:
    """How often shards were run, and how many are done; one query, for this process measures meanwhile."""
    counted = "SELECT sum(runs), sum(CASE status WHEN ? THEN shards END) FROM counts"
    with closing(sqlite3.connect(f"file:{data_dir}/withstand.db?mode=ro", uri=True)) as db:
        runs, done = db.execute(counted, [ShardStatus.DONE]).fetchone()
    return runs or 0, done or 0


def large(database: Path, shards: int) -> tuple[str, ...]:
    """A row of the second table: milliseconds to submit so many shards and to read their progress."""
    with closing(Store.at(database)) as store:
        plan = plan_of(shards, shards)
        began = time.perf_counter()
        store.submit(plan)
        submitted = time.perf_counter()
        store.evaluation(plan.id)
        read = time.perf_counter()
    return f"{shards:,}", f"{1000 * (submitted - began):.0f}", f"{1000 * (read - submitted):.1f}"


def _percentiles(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    return ", ".join(f"{1000 * ordered[int(share * (len(ordered) - 1))]:.0f}" for share in (0.5, 0.99, 1))


def main() -> None:
    """Read the flags, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--watchers", type=int, default=200)
    parser.add_argument("--pause", type=float, default=2.0, help="mean pause of a client, seconds (default 2)")
    flags = parser.parse_args()
    print(
        f"{hardware(torch.device('cpu'))}; {flags.clients} clients, pauses of {flags.pause:g} s, {flags.watchers} watchers\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(measure(Path(folder), flags.jobs, flags.clients, flags.watchers, flags.pause))
        print(table(("what", "figure"), rows))
        sizes = (5_000, 50_000, 230_400)
        heads = ("shards", "ms to submit", "ms to read progress")
        print(table(heads, [large(Path(folder) / "large.db", each) for each in sizes]))


if __name__ == "__main__":
    main()
