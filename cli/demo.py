"""The demonstration: start a server, evaluate the zoo over HTTP, print the report."""

import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import typer
import uvicorn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.display import console, print_report
from evaluation import Catalog, EvaluationSpec, Report, preset
from service.preflight import require_startable
from service.server import config
from service.settings import Settings
from withstand import Client, ClientError
from withstand.answers import EvaluationView

DATASET = "fashion_mnist_test"
START_TIMEOUT_S = 120.0


def run(settings: Settings, *, detach: bool, images: int, intervals: bool, as_json: bool = False) -> None:
    """Start the service, evaluate every model of the zoo, print the report, and serve until Ctrl-C unless detached.

    Args:
        settings: of the service. It listens on this machine only and without their API keys, on a free port if the given one is
            taken; where its folder's database has keys, `WITHSTAND_API_KEY` has to be one. Results there are not computed again.
        detach: stop the service when the report is printed.
        images: how many each model is evaluated on.
        intervals: print the 95 % interval of every score.
        as_json: print the report as JSON, and everything else on standard error.

    Raises:
        StartError: the service cannot start.
        ClientError: the service did not become ready, or refused a request.
    """
    out = console(stderr=as_json)
    alone = {"host": "127.0.0.1", "port": _free_port(settings.port), "api_keys": frozenset(), "admin_keys": frozenset()}
    settings = settings.model_copy(update=alone)
    require_startable(settings)
    host = f"http://{settings.host}:{settings.port}"
    url = host + settings.root_path
    with _serving(settings) as thread, Client(url, api_key=os.environ.get("WITHSTAND_API_KEY")) as client:
        _wait_until_ready(client, thread)
        final = _evaluate(client, host, out, images=images, live=not detach)
        links, report = final["links"], Report.model_validate(final["report"])
        if as_json:
            typer.echo(report.model_dump_json(indent=2))
        else:
            print_report(report, out, intervals=intervals)
        (settings.data_dir / "example.png").write_bytes(Catalog().open_dataset(DATASET).read(0))
        if detach:
            out.print(_see_again(settings.data_dir, links["page"]), soft_wrap=True)
            return
        links = {name: host + path for name, path in links.items()}
        out.print(_next_steps(url, links, settings.data_dir / "example.png"), soft_wrap=True)
        out.print("The service keeps running. Press Ctrl-C to stop it.")
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
            raise ClientError("the service did not start; its messages above say why")
        time.sleep(0.1)


def _evaluate(client: Client, host: str, out: Console, *, images: int, live: bool) -> EvaluationView:
    """Evaluate the zoo; returns the evaluation with its report."""
    spec = EvaluationSpec(
        models=tuple(Catalog().checkpoints()),
        dataset=DATASET,
        images=images,
        conditions=preset("demo"),
    )
    submitted = client.submit(spec.model_dump(mode="json"))
    live_at = f", live at {host}{submitted['links']['page']}" if live else ""
    out.print(f"Evaluation {submitted['id']}{live_at}", soft_wrap=True)
    final = _watch(client, submitted, out)
    if final["status"] != "done":
        raise ClientError(f"the evaluation ended as {final['status']}: {final['error']}")
    return client.evaluation(submitted["id"])


def _watch(client: Client, submitted: EvaluationView, out: Console) -> EvaluationView:
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


def _see_again(data_dir: Path, page: str) -> str:
    return f"""
The service has stopped. Its results are in {data_dir}. To see them as a page, run
  withstand serve --data-dir {data_dir}
and open {page} at the address it prints.
"""


def _next_steps(url: str, links: dict[str, str], picture: Path) -> str:
    return f"""
The same report as a page: {links["page"]}

Try next:
  curl {url}/v1/models
  curl '{links["report"]}?format=markdown'
  curl -F file=@{picture} {url}/v1/models/resnet_mini.fashion_mnist/predict
  curl -X POST {url}/v1/evaluations/pgd -H 'Content-Type: application/json' \\
    -d '{{"models": ["resnet_mini.fashion_mnist"], "dataset": "{DATASET}", "images": 100, "eps": ["2/255"]}}'
"""
