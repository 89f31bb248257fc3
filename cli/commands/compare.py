"""The command `compare`."""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

import typer

from cli.exit_codes import BAD_REQUEST, end
from cli.options import ApiKeyFile, DataDir, Json, Server, connect, settings_of, stored, stored_evaluation

if TYPE_CHECKING:
    from evaluation import Catalog, Comparison, Side
    from service.jobs.store import Store
    from withstand import Client

app = typer.Typer(add_completion=False)


class _Model(NamedTuple):
    """A model of an evaluation."""

    evaluation: str
    name: str


class _Place(Protocol):
    """Where evaluations are."""

    def models_of(self, evaluation_id: str) -> Sequence[str]:
        """List the models of an evaluation."""
        ...

    def compare(self, first: _Model, second: _Model) -> "Comparison":
        """Compare two models."""
        ...


@dataclass(frozen=True)
class _Service:
    client: "Client"

    def models_of(self, evaluation_id: str) -> Sequence[str]:
        return self.client.evaluation(evaluation_id)["spec"]["models"]

    def compare(self, first: _Model, second: _Model) -> "Comparison":
        from evaluation import Comparison

        found = self.client.comparison(
            first.evaluation, model=first.name, other_evaluation=second.evaluation, other_model=second.name
        )
        return Comparison.model_validate(found)


@dataclass(frozen=True)
class _Folder:
    store: "Store"
    catalog: "Catalog"

    def models_of(self, evaluation_id: str) -> Sequence[str]:
        return stored_evaluation(evaluation_id, self.store).plan.spec.models

    def compare(self, first: _Model, second: _Model) -> "Comparison":
        from evaluation import compare

        return compare(self._side(first), self._side(second))

    def _side(self, model: _Model) -> "Side":
        from evaluation import Side
        from service.jobs.reports.names import classes_of

        plan = stored_evaluation(model.evaluation, self.store).plan
        classes = classes_of(plan, model.name, self.catalog)
        return Side(plan, model.name, self.store.results(model.evaluation), classes)


@app.command()
def compare(
    evaluation_id: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Ids of evaluations; `withstand evaluations` lists them.")
    ],
    models: Annotated[
        list[str],
        typer.Option(help="Name of a model to compare; may be repeated.", show_default="all models of the evaluations"),
    ] = [],
    server: Server = None,
    api_key_file: ApiKeyFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Compare models image by image: which is better, and could that be chance? The first is compared with each of the others.

    Exits with status 2 if two models cannot be compared, such as on different images; the reason is printed.
    """
    with _place(server, api_key_file, data_dir) as place:
        first, *others = _chosen(evaluation_id, models, place)
        pairs = [(first, other, *_compared(first, other, place)) for other in others]
    _print(pairs, as_json=as_json)
    refusals = [reason for _, _, _, reason in pairs if reason]
    if refusals:
        end("; ".join(refusals), BAD_REQUEST)


def _chosen(evaluation_ids: list[str], wanted: list[str], place: _Place) -> list[_Model]:
    """List the models to compare; raises ValueError if there are fewer than two, or if one that is wanted is not there."""
    there = [_Model(each, name) for each in dict.fromkeys(evaluation_ids) for name in place.models_of(each)]
    names = list(dict.fromkeys(each.name for each in there))
    if unknown := [name for name in wanted if name not in names]:
        raise ValueError(f"--models {unknown[0]}: the evaluations have {', '.join(names)}")
    chosen = [each for each in there if not wanted or each.name in wanted]
    chosen.sort(key=lambda each: wanted.index(each.name) if wanted else 0)
    if len(chosen) < 2:
        raise ValueError(
            f"a comparison needs two models, got {', '.join(each.name for each in chosen)}; give another ID"
        )
    return chosen


def _compared(first: _Model, other: _Model, place: _Place) -> "tuple[Comparison | None, str]":
    """Compare two models; gives the comparison, or None and why they cannot be compared."""
    from evaluation import ComparisonError
    from withstand import ClientError

    try:
        return place.compare(first, other), ""
    except ComparisonError as error:
        return None, str(error)
    except ClientError as error:
        if error.status != 409:
            raise
        return None, error.problem["detail"]


@contextmanager
def _place(server: str | None, api_key_file: Path | None, data_dir: Path | None) -> Generator[_Place]:
    """Open a service, or the database of a folder."""
    if server is not None:
        with connect(server, api_key_file) as client:
            yield _Service(client)
    else:
        with stored(data_dir) as store:
            yield _Folder(store, settings_of(data_dir=data_dir).catalog())


def _print(pairs: "list[tuple[_Model, _Model, Comparison | None, str]]", *, as_json: bool) -> None:
    from cli.comparison_table import print_comparison
    from cli.display import console

    if as_json:
        found = [
            {"first": first._asdict(), "second": second._asdict(), "problem": reason}
            if comparison is None
            else comparison.model_dump(mode="json")
            for first, second, comparison, reason in pairs
        ]
        typer.echo(json.dumps(found, indent=2))
        return
    out = console()
    for _, _, comparison, _ in pairs:
        if comparison is not None:
            print_comparison(comparison, out)
