"""The command `withstand`. A command's module is imported when it is used: torch alone takes seconds, which no help should."""

import os
from importlib import import_module, metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli.exit_codes import end

COMMANDS = {
    "serve": "Serve predictions and evaluations over HTTP.",
    "evaluate": "Evaluate checkpoints here and now, without a server.",
    "predict": "Classify pictures here and now, without a server.",
    "explain": "Draw what a model's attention weighs in a picture.",
    "models": "List the checkpoints that can be evaluated, and the architectures that can be created; or add a checkpoint.",
    "datasets": "List the data sets that models can be evaluated on; or check one.",
    "presets": "List the sets of conditions that `evaluate --preset` takes.",
    "evaluations": "List the evaluations of a service, the newest first; or remove one.",
    "demo": "Start the service, evaluate the zoo through HTTP, print the report and where to look next.",
}
"""What the list of commands says; each is the `app` of the module of its name in `cli.commands`."""


def load_command(name: str) -> Any:
    """Import a command, with all that it needs."""
    return typer.main.get_command(import_module(f"cli.commands.{name}").app)


class _Commands(TyperGroup):
    """Replaces the stand-in of a command by the command once it is used."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, stand_in, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else stand_in, rest


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"withstand {metadata.version('withstand')}")
        raise typer.Exit


@app.callback()
def withstand(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """How well do image classifiers withstand rotation, flips and adversarial attacks?"""


def _stand_in() -> None:
    """Is listed, and never run."""


for _name, _summary in COMMANDS.items():
    app.command(_name, help=_summary)(_stand_in)


def main() -> None:
    """Run the command; a bad request ends with status 2, a failure with 1, both with one line on standard error."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin slow down every neighbour
    try:
        app()
    except Exception as error:
        from cli.commands.failures import ending_of  # noqa: PLC0415  # it imports torch, as what failed did

        ending = ending_of(error)
        if ending is None:
            raise
        end(*ending)


if __name__ == "__main__":
    main()
