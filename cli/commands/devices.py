"""The command `devices`."""

import typer

from cli.options import ApiKeyFile, DataDir, Json, Server, connect, stored

app = typer.Typer(add_completion=False)


@app.command()
def show_devices(
    server: Server = None, api_key_file: ApiKeyFile = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Show the devices that run evaluations, and what each runs."""
    from cli.display import console
    from cli.queue_tables import print_devices
    from service.http.routes.queue import DeviceList, describe_devices
    from service.jobs.queue import Queue

    if server is None:
        with stored(data_dir) as store:
            found = describe_devices(Queue(store))
    else:
        with connect(server, api_key_file) as client:
            found = DeviceList.model_validate(client.devices())
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        print_devices(found, console())
