"""The command `withstand`. The module of a command is imported when it is used, so that `--help` need not wait for torch."""

import os
from importlib import import_module, metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli.exit_codes import end

COMMANDS = {
    "serve": "Serve predictions and evaluations over HTTP.",
    "evaluate": "Evaluate checkpoints, here and now or at a service.",
    "check-claim": "Check a claimed score with as few images as will do.",
    "predict": "Classify pictures, here and now or at a service.",
    "explain": "Draw which places in a picture a model's attention weights most.",
    "report": "Print the report of an evaluation, or write it to a file.",
    "compare": "Compare models image by image: which is better, and could that be chance?",
    "zoo": "List the checkpoints that come with withstand, which `demo` evaluates.",
    "models": "List the checkpoints and architectures; add or remove a checkpoint.",
    "datasets": "List the data sets, or check one.",
    "presets": "List the sets of conditions that `evaluate --preset` takes.",
    "evaluations": "List the evaluations of a service, newest first, or change one.",
    "queue": "Show what runs and what waits, or pause and resume all of it.",
    "devices": "Show the devices that run evaluations, and what each runs.",
    "keys": "Create, list or revoke API keys, in the database of a service that need not run.",
    "doctor": "Say what the service finds on this machine, and what is wrong with it.",
    "demo": "Start the service, evaluate the zoo over HTTP, and print the report.",
}
"""Each command with its line in `withstand --help`; it is the `app` of the module of that name in `cli.commands`."""


def load_command(name: str) -> Any:
    """Import the module of a command."""
    return typer.main.get_command(import_module(f"cli.commands.{name.replace('-', '_')}").app)


class _Commands(TyperGroup):
    """Replaces the placeholder of a command by the command when it is used."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, placeholder, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else placeholder, rest


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"withstand {metadata.version('withstand')}")
        raise typer.Exit


@app.callback()
def withstand(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """How well do image classifiers withstand rotation, flips and adversarial attacks?"""


def _placeholder() -> None:
    """Is listed, but never run."""


for _name, _summary in COMMANDS.items():
    app.command(_name, help=_summary)(_placeholder)


def main() -> None:
    """Run the command. A bad request exits with status 2, a failure with 1; both print one line on standard error."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # before torch: waiting threads that spin slow down other processes
    try:
        app()
    except Exception as error:
        from cli.failures import ending_of  # noqa: PLC0415  # it imports torch

        ending = ending_of(error)
        if ending is None:
            raise
        end(*ending)


if __name__ == "__main__":
    main()
