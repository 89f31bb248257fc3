"""The command `report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import (
    ApiKeyFile,
    DataDir,
    Id,
    Intervals,
    Json,
    Server,
    connect,
    format_of,
    settings_of,
    stored,
    stored_evaluation,
)

if TYPE_CHECKING:
    from evaluation import Format

app = typer.Typer(add_completion=False)


@app.command()
def report(
    evaluation_id: Id,
    format: Annotated[  # noqa: A002  # the name of the option
        str | None,
        typer.Option(
            help="Format to write, such as markdown, latex, csv or html; a wrong one prints the list.",
            show_default="as the ending of --out says, else tables",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write instead of printing.", show_default="standard output")
    ] = None,
    intervals: Intervals = False,
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Print the report of an evaluation, or write it to a file. It says so if it is partial."""
    from cli.display import console, print_report
    from evaluation import Report, report_format

    form = _format("json" if as_json else format, out)
    found = _found(evaluation_id, form or report_format("json"), (server, api_key_file, data_dir))
    if out is not None:
        out.write_bytes(found)
    elif form is None:
        print_report(Report.model_validate_json(found), console(), intervals=intervals)
    else:
        typer.echo(found, nl=not found.endswith(b"\n"))


def _format(name: str | None, out: Path | None) -> "Format | None":
    """Find the format that is asked for, by its name or by the ending of the file; None is tables."""
    from evaluation import report_format

    if name is not None:
        return report_format(name)
    return None if out is None else format_of(out)


def _found(evaluation_id: str, form: "Format", place: tuple[str | None, Path | None, Path | None]) -> bytes:
    """Write a report in some format, at a service or from the database of a folder."""
    from evaluation import merge
    from service.jobs.reports.rows import stored_rows

    server, api_key_file, data_dir = place
    if server is not None:
        with connect(server, api_key_file) as client:
            return client.report_as(evaluation_id, form.name)
    with stored(data_dir) as store:
        found = stored_evaluation(evaluation_id, store)
        catalog = settings_of(data_dir=data_dir).catalog()
        whole = merge(found.plan, store.results(evaluation_id))
        return form.to_bytes(whole, lambda: stored_rows(found, store, catalog))
