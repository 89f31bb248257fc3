"""The pages of reference that are made from the code: `python -m docs.reference` writes them."""

import inspect
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import typer
from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext, iter_route_contexts
from typer.cli import get_docs_for_click

from cli.main import COMMANDS, load_command
from service.accounts.keys import Scope
from service.app import create_app
from service.http.access.scopes import needed_scope
from service.http.deps import require_admin
from service.http.middleware.api_keys import OPEN
from service.settings import Settings
from withstand import Client, Job
from withstand.answers import EvaluationView

MADE = "This page is made from the code: `python -m docs.reference`."


def commands() -> str:
    """Describe every command with its options."""
    pages = (_command(name) for name in COMMANDS)
    return f"# All options of the commands\n\n{MADE} [commands.md](commands.md) says what to use them for.\n\n{''.join(pages)}"


def _command(name: str) -> str:
    command, title = load_command(name), f"withstand {name}"
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name=title), name=title, indent=1)
    return re.sub(r"\n{3,}", "\n\n", text.replace("* `", "- `")).rstrip() + "\n\n"


def routes() -> str:
    """List every route of the API with the scope of the key that it needs."""
    with TemporaryDirectory() as folder:
        app = create_app(Settings(data_dir=Path(folder)))
    described = [each for each in iter_route_contexts(app.routes) if getattr(each, "include_in_schema", False)]
    rows = sorted(row for route in described for row in _rows(route))
    table = "\n".join(f"| `{path}` | {method} | {scope} | {does} |" for path, method, scope, does in rows)
    return f"""# All routes

{MADE} At a running service `/docs` shows what each takes and answers;
[http.md](http.md) has a line to paste for each. Where [keys](settings.md#api-keys) are needed, a route needs none, or one
with at least this scope. `DELETE` of an evaluation with `results=true`, and changes to what other keys asked for, need
an admin key.

| path | method | scope | does |
|---|---|---|---|
{table}
"""


def _rows(route: RouteContext) -> list[tuple[str, str, str, str]]:
    path = route.path_format or ""
    does = " ".join(route.description.partition("\n\n")[0].split()).replace("|", "\\|")
    return [(path, method, _scope(route, method), does) for method in route.methods or ()]


def _scope(route: RouteContext, method: str) -> str:
    path = route.path_format or ""
    if path in OPEN:
        return "none"
    return Scope.ADMIN if _asks_for_admin(route.dependant) else needed_scope(method, path)


def _asks_for_admin(dependant: Dependant) -> bool:
    return dependant.call is require_admin or any(map(_asks_for_admin, dependant.dependencies))


def methods() -> str:
    """Describe the methods of the Python client."""
    with Client("http://service") as client:
        job = Job(client, cast(EvaluationView, {"id": "", "links": {}}))
        parts = [f"## {type(each).__name__}\n\n{_methods(each)}" for each in (client, job)]
    return (
        f"""# All methods of the Python client

{MADE} [python.md](python.md) shows how they are used. `AsyncClient` and `AsyncJob` have the
same methods, to be awaited. `withstand/answers.py` has the types of what they give.

{"".join(parts)}""".rstrip()
        + "\n"
    )


def _methods(of: Any) -> str:
    names = [name for name, value in inspect.getmembers(type(of)) if name[0] != "_" and not isinstance(value, property)]
    return "".join(f"### `{name}{_parameters(getattr(of, name))}`\n\n{_text(getattr(of, name))}\n\n" for name in names)


def _parameters(method: Any) -> inspect.Signature:
    signature = inspect.signature(method)
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    return signature.replace(parameters=plain, return_annotation=inspect.Signature.empty)


def _text(method: Any) -> str:
    """Write a docstring as Markdown: its arguments and errors as a list."""
    text = re.sub(r"^(Args|Raises):$", r"\1:\n", inspect.getdoc(method) or "", flags=re.MULTILINE)
    return re.sub(r"^    (\*{0,2}\w+): ", r"- `\1`: ", text, flags=re.MULTILINE).replace("        ", "  ")


PAGES = {"options": commands, "routes": routes, "client": methods}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (Path(__file__).parent / f"{name}.md").write_text(page())
