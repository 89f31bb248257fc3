"""The command `doctor`."""

import json
from typing import TYPE_CHECKING

import typer

from cli.exit_codes import FAILURE
from cli.options import DataDir, DatasetDir, Json, ModelDir, settings_of
from common import counted, printable

if TYPE_CHECKING:
    from service.checkup import Finding

app = typer.Typer(add_completion=False)


@app.command()
def doctor(
    data_dir: DataDir = None, model_dir: ModelDir = [], dataset_dir: DatasetDir = [], as_json: Json = False
) -> None:
    """Say what the service finds on this machine, and what is wrong with it. Exits with status 1 if something is."""
    from service.checkup import examine

    settings = settings_of(data_dir=data_dir, model_dir=model_dir, dataset_dir=dataset_dir)
    findings = [*examine(settings)]
    if as_json:
        typer.echo(json.dumps([each._asdict() for each in findings], indent=2))
    else:
        _print(findings)
    if any(each.is_problem for each in findings):
        raise typer.Exit(FAILURE)


def _print(findings: "list[Finding]") -> None:
    from rich.table import Table

    from cli.display import console

    table = Table.grid(padding=(0, 2))
    for each in findings:
        table.add_row("problem" if each.is_problem else "ok", each.topic, printable(each.found))
    out = console()
    out.print(table)
    problems = sum(each.is_problem for each in findings)
    out.print(f"\n{counted(problems, 'problem') if problems else 'nothing is wrong'}")
