"""The demonstration: a server, an evaluation of the zoo through HTTP, its report."""

import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import uvicorn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from evaluation import Catalog, EvaluationSpec, Report, preset
from service.client import Client, ClientError
from service.display import console, print_report
from service.server import config
from service.settings import Settings

DATASET = "fashion_mnist_test"
IMAGES = 100
START_TIMEOUT_S = 120.0


def run(*, detach: bool, port: int, data_dir: Path) -> None:
    """Start the service, evaluate every model of the zoo, print the report, and serve until Ctrl-C unless detached.

    Args:
        detach: end the service once the report is printed.
        port: to listen on; if it is taken, a free one.
        data_dir: folder of the database; what was finished there before is not computed again.

    Raises:
        ClientError: the service did not start, or refused.
    """
    out = console()
    settings = Settings(host="127.0.0.1", port=_free_port(port), data_dir=data_dir, api_keys=frozenset())
    url = f"http://{settings.host}:{settings.port}"
    with _serving(settings) as thread, Client(url) as client:
        _wait_until_ready(client, thread)
        _evaluate(client, url, data_dir, out)
        if not detach:
            out.print("The service keeps running; Ctrl-C ends it.")
            with suppress(KeyboardInterrupt):
                thread.join()


@contextmanager
def _serving(settings: Settings) -> Generator[Thread]:
    """Run the service in a thread of this process."""
    server = uvicorn.Server(config(settings, log_level="warning"))
    thread = Thread(target=server.run, name="server")
    thread.start()
    try:
        yield thread
    finally:
        server.should_exit = True
        thread.join()


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise ClientError("there is no free port on 127.0.0.1")


def _wait_until_ready(client: Client, server: Thread) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not client.ready():
        if not server.is_alive() or time.monotonic() > deadline:
            raise ClientError("the service did not start; the reason is above")
        time.sleep(0.1)


def _evaluate(client: Client, url: str, data_dir: Path, out: Console) -> None:
    spec = EvaluationSpec(
        models=tuple(Catalog().checkpoints()),
        dataset=DATASET,
        images=IMAGES,
        conditions=preset("demo"),
    )
    submitted = client.submit(spec.model_dump(mode="json"))
    out.print(f"Evaluation {submitted['id']}, live at {url}{submitted['links']['page']}", soft_wrap=True)
    final = _watch(client, submitted, out)
    if final["status"] != "done":
        raise ClientError(f"the evaluation ended as {final['status']}: {final['error']}")
    print_report(Report.model_validate(client.evaluation(submitted["id"])["report"]), out)
    picture = data_dir / "example.png"
    picture.write_bytes(Catalog().open_dataset(DATASET).read(0))
    out.print(_next_steps(url, submitted, picture), soft_wrap=True, markup=False)


def _watch(client: Client, submitted: dict[str, Any], out: Console) -> dict[str, Any]:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    state = submitted
    with Progress(*columns, console=out) as bar:
        task = bar.add_task("", total=submitted["progress"]["images_total"])
        for state in client.watch(submitted["id"]):
            progress = state["progress"]
            rate = progress["images_per_s"]
            described = "" if rate is None else f"{rate:.0f} images/s"
            if progress["eta_s"]:
                described += f", {progress['eta_s']:.0f} s left"
            bar.update(task, completed=progress["images_done"], description=described)
            if not out.is_terminal:
                out.print(f"{progress['images_done']} / {progress['images_total']} images {described}")
    return state


def _next_steps(url: str, submitted: dict[str, Any], picture: Path) -> str:
    return f"""
The same report as a page: {url}{submitted["links"]["page"]}

Try next:
  curl {url}/v1/models
  curl '{url}{submitted["links"]["report"]}?format=markdown'
  curl -F file=@{picture} {url}/v1/models/resnet_mini.fashion_mnist/predict
  curl -X POST {url}/v1/evaluations/pgd -H 'Content-Type: application/json' \\
    -d '{{"models": ["resnet_mini.fashion_mnist"], "dataset": "{DATASET}", "images": 100, "eps": ["2/255"]}}'
"""
