"""The commands about API keys: `withstand keys create`, `withstand keys list`, `withstand keys revoke`."""

import json
import os
import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.options import DataDir, Json, settings_of, stored

if TYPE_CHECKING:
    from service.accounts.keys import ApiKey

DAY_S = 86_400

app = typer.Typer(no_args_is_help=True, add_completion=False)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a key: whose it is, or what for.")]


@app.callback()
def keys() -> None:
    """Create, list or revoke API keys, in the database of a service that need not run."""


@app.command("create")
def create_key(
    name: Name,
    scope: Annotated[
        Literal["read", "submit", "admin"],
        typer.Option(
            help="read looks at everything; submit also predicts, and has evaluations of its own; admin may do everything."
        ),
    ],
    expires: Annotated[
        int | None, typer.Option(min=1, metavar="DAYS", help="Days until the key ends.", show_default="never")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it, this once: the database has only its hash. Running servers accept it within 2 seconds."""
    from contextlib import closing

    from service.accounts import keys
    from service.accounts.audit import auditing
    from service.jobs.store import Store

    expires_at = None if expires is None else time.time() + DAY_S * expires
    settings = settings_of(data_dir=data_dir)
    with closing(Store.at(settings.database)) as store, auditing(settings.audit_log, settings.log_format):
        key = keys.create_key(store.database, name, keys.Scope(scope), expires_at=expires_at)
        _record("create", f"{name} ({scope})")
    typer.echo(json.dumps({"name": name, "scope": scope, "key": key}) if as_json else key)


@app.command("list")
def list_keys(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the keys that were created, the newest first; revoked ones too."""
    from service.accounts import keys

    with stored(data_dir) as store:
        _print(keys.list_keys(store.database), as_json=as_json)


@app.command("revoke")
def revoke_key(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Revoke a key for good. Running servers refuse it within 2 seconds, and browsers that signed in with it."""
    from service.accounts import keys
    from service.accounts.audit import auditing

    settings = settings_of(data_dir=data_dir)
    with stored(data_dir) as store, auditing(settings.audit_log, settings.log_format):
        revoked = keys.revoke_key(store.database, name)
        _record("revoke", name)
    if as_json:
        typer.echo(revoked.model_dump_json(indent=2))
    else:
        typer.echo(f"revoked {name}")


def _record(command: str, target: str) -> None:
    """Write down what a user of this machine did."""
    from service.accounts.audit import Change, record

    who = f"user {os.getuid()}"
    record(Change(who, scope="", address="", method="COMMAND", route=f"keys {command}", target=target, status=0))


def _print(found: "list[ApiKey]", *, as_json: bool) -> None:
    from rich import box
    from rich.table import Table

    from cli.display import console

    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json") for each in found], indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("name", "scope", "created", "expires", "revoked"):
        table.add_column(heading, overflow="fold")
    for each in found:
        times = (each.created_at, each.expires_at, each.revoked_at)
        shown = [f"{when:%Y-%m-%d %H:%M} UTC" if when else "-" for when in times]
        table.add_row(each.name, each.scope, *shown)
    console().print(table if found else "there are no keys")
