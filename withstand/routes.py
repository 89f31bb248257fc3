"""What the service can be asked, one function per question: each describes a request and sends nothing.

Wherever the service refuses, the client that sends the request raises `ClientError`.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack
from urllib.parse import quote
from uuid import uuid4

import httpx

from withstand.answers import (
    AddedModel,
    Architecture,
    CalibrationView,
    ClassResults,
    Comparison,
    DatasetDetails,
    DatasetView,
    DeviceList,
    Estimate,
    EvaluationList,
    EvaluationView,
    Explanation,
    FailureList,
    Label,
    ModelView,
    Predictions,
    Priority,
    QueueView,
    Unusable,
)
from withstand.request import File, Request, Result

Picture = bytes | str | Path
"""The content of a picture file, or its path."""


class Wishes(TypedDict, total=False):
    """What a submission may ask for beside its specification.

    Attributes:
        priority: normal by default.
        max_devices: most devices that run it at the same time.
        max_hours: most hours that devices work on it, summed over them.
        webhook: address that is called when it has ended.
        idempotency_key: repeating a submission with the same key is harmless; a random one by default.
    """

    priority: Priority
    max_devices: int
    max_hours: float
    webhook: str
    idempotency_key: str


def _json(answer: httpx.Response) -> Any:
    return answer.json()


def _content(answer: httpx.Response) -> bytes:
    return answer.content


def readiness() -> Request[None]:
    """Ask whether the service is ready; not being so is an error, which is not tried again."""
    return Request(method="GET", path="/readyz", read=lambda _: None, repeatable=False)


def models() -> Request[list[ModelView | Unusable]]:
    """List the models; one that cannot be used has a `problem` instead of its card."""
    return Request(method="GET", path="/v1/models", read=_json)


def model(name: str) -> Request[ModelView]:
    """Read one model's card."""
    return Request(method="GET", path=f"/v1/models/{quote(name)}", read=_json)


def add_model(
    file: Path | str, *, name: str | None = None, card: Mapping[str, Any] | None = None, accept_likely: bool = False
) -> Request[AddedModel]:
    """Upload a checkpoint, and the hub's `config.json` if it is in the same folder.

    Args:
        file: the checkpoint.
        name: for the model; the name of the file without its ending by default.
        card: fields of the card that are known, some or all.
        accept_likely: take the likely answers to open questions. Otherwise `problem` of the error has them as `questions`.
    """
    path = Path(file)
    config = path.with_name("config.json")
    form = {
        "name": name,
        "card": json.dumps({**(card or {})}),
        "config": config.read_bytes() if config.is_file() else None,
        "accept_likely": str(accept_likely).lower(),
    }
    return Request(
        method="POST",
        path="/v1/models",
        read=_json,
        form={field: value for field, value in form.items() if value is not None},
        files=[File("file", path.name, path)],
        untimed=True,
    )


def remove_model(name: str) -> Request[None]:
    """Remove an added model."""
    return Request(method="DELETE", path=f"/v1/models/{quote(name)}", read=lambda _: None)


def datasets() -> Request[list[DatasetView | Unusable]]:
    """List the data sets; one that cannot be used has a `problem` instead of counts."""
    return Request(method="GET", path="/v1/datasets", read=_json)


def dataset(name: str, *, model: str | None = None) -> Request[DatasetDetails]:
    """Read what a data set holds; with a model, which of its classes each class is taken for."""
    return Request(method="GET", path=f"/v1/datasets/{quote(name, safe='')}", read=_json, params={"model": model})


def add_dataset(file: Path | str, *, name: str | None = None) -> Request[DatasetView]:
    """Upload a data set: a .zip or .tar of one folder of pictures per class.

    Args:
        file: the archive.
        name: for the data set; the name of the file without its ending by default.
    """
    path = Path(file)
    form = None if name is None else {"name": name}
    files = [File("file", path.name, path)]
    return Request(method="POST", path="/v1/datasets", read=_json, form=form, files=files, untimed=True)


def presets() -> Request[list[dict[str, Any]]]:
    """List the sets of conditions that have a name."""
    return Request(method="GET", path="/v1/presets", read=_json)


def attacks() -> Request[list[dict[str, Any]]]:
    """List all attacks and transforms with their parameters."""
    return Request(method="GET", path="/v1/attacks", read=_json)


def architectures() -> Request[list[Architecture]]:
    """List the architectures that a checkpoint may have, with the papers they come from."""
    return Request(method="GET", path="/v1/architectures", read=_json)


def predict(
    model: str, *pictures: Picture, top_k: int | None = None, timeout_s: float | None = None
) -> Request[Predictions]:
    """Classify pictures.

    Args:
        model: name of a checkpoint.
        pictures: one or many. One that cannot be decoded has an `error` instead of classes; if none can, that is an error.
        top_k: classes to name; by default as the model's settings say.
        timeout_s: longest wait for the answer, seconds; by default as the service's settings say.
    """
    return Request(
        method="POST",
        path=f"/v1/models/{quote(model)}/predict",
        read=_json,
        params={"top_k": top_k, "timeout_s": timeout_s},
        files=[_part(each) for each in pictures],
    )


def explain(
    model: str, picture: Picture, *, layer: str | None = None, query: tuple[float, float] | None = None
) -> Request[Explanation]:
    """Show which places in a picture a layer's attention weights most.

    Args:
        model: name of a checkpoint.
        picture: to explain.
        layer: path of an attention layer in the network; the last one by default.
        query: place whose attention is shown, (y, x) as fractions of the cropped picture; all places by default.
    """
    return _explanation(_json, model, picture, {"layer": layer, "query": query, "format": "json"})


def explain_png(
    model: str, picture: Picture, *, layer: str | None = None, query: tuple[float, float] | None = None
) -> Request[bytes]:
    """Draw what `explain` tells, as a PNG."""
    return _explanation(_content, model, picture, {"layer": layer, "query": query, "format": "png"})


def _explanation(
    read: Callable[[httpx.Response], Result], model: str, picture: Picture, asked: dict[str, Any]
) -> Request[Result]:
    place = asked["query"]
    params = asked | {"query": None if place is None else f"{place[0]},{place[1]}"}
    path = f"/v1/models/{quote(model)}/explain"
    return Request(method="POST", path=path, read=read, params=params, files=[_part(picture)])


def _part(picture: Picture) -> File:
    content = picture if isinstance(picture, bytes) else Path(picture)
    return File("file", content.name if isinstance(content, Path) else "picture", content)


def submit(spec: Mapping[str, Any], *, preset: str | None = None, **wishes: Unpack[Wishes]) -> Request[EvaluationView]:
    """Submit an evaluation. The same question about the same files is the same evaluation: finished work is not repeated.

    Args:
        spec: models, dataset, images and more, with the conditions unless there is a preset.
        preset: name of a set of conditions, or "pgd", whose `eps`, `steps` and more are then in the specification.
        wishes: see `Wishes`.
    """
    params = dict(wishes)
    key = params.pop("idempotency_key", uuid4().hex)
    path = "/v1/evaluations" if preset is None else f"/v1/evaluations/{quote(preset)}"
    headers = {"Idempotency-Key": str(key)}
    return Request(method="POST", path=path, read=_json, json={**spec}, params=params, headers=headers)


def estimate(spec: Mapping[str, Any]) -> Request[Estimate]:
    """Estimate what an evaluation would cost at most; nothing is submitted."""
    return Request(method="POST", path="/v1/evaluations/dry-run", read=_json, json={**spec})


def evaluations_page(*, limit: int = 50, cursor: int | None = None, search: str = "") -> Request[EvaluationList]:
    """List some evaluations, the newest first.

    Args:
        limit: how many, 1 to 200.
        cursor: `next_cursor` of the page before.
        search: words, each of which must occur in the id, models, data set, name, tags or note.
    """
    params = {"limit": limit, "cursor": cursor, "search": search or None}
    return Request(method="GET", path="/v1/evaluations", read=_json, params=params)


def evaluation(evaluation_id: str) -> Request[EvaluationView]:
    """Read an evaluation, with its report so far."""
    return Request(method="GET", path=_path(evaluation_id), read=_json)


def control_evaluation(evaluation_id: str, action: Literal["pause", "resume", "retry"]) -> Request[EvaluationView]:
    """Let an evaluation pause, resume, or retry its failed shards; gives its state."""
    return Request(method="POST", path=f"{_path(evaluation_id)}/{action}", read=_json)


def cancel_evaluation(evaluation_id: str) -> Request[EvaluationView]:
    """Drop what is not finished of an evaluation; gives its state."""
    return Request(method="DELETE", path=_path(evaluation_id), read=_json)


def remove_evaluation(evaluation_id: str) -> Request[EvaluationView]:
    """Remove an evaluation that has ended, and its results, for good; gives its last state."""
    return Request(method="DELETE", path=_path(evaluation_id), read=_json, params={"results": True})


def prioritise_evaluation(evaluation_id: str, priority: Priority) -> Request[EvaluationView]:
    """Change the priority of an evaluation; gives its state."""
    path = f"{_path(evaluation_id)}/priority"
    return Request(method="PUT", path=path, read=_json, json={"priority": priority})


def limit_evaluation(
    evaluation_id: str, *, max_devices: int | None = None, max_hours: float | None = None
) -> Request[EvaluationView]:
    """Change how many devices may run an evaluation, and for how long; None is no limit. Gives its state."""
    limits = {"max_devices": max_devices, "max_hours": max_hours}
    return Request(method="PUT", path=f"{_path(evaluation_id)}/limits", read=_json, json=limits)


def label_evaluation(evaluation_id: str, label: Label) -> Request[EvaluationView]:
    """Give an evaluation a name, tags and a note in place of those it had; gives its state."""
    return Request(method="PUT", path=f"{_path(evaluation_id)}/label", read=_json, json=label)


def report(evaluation_id: str) -> Request[dict[str, Any]]:
    """Read the report of an evaluation; `complete` says whether it is partial."""
    return Request(method="GET", path=f"{_path(evaluation_id)}/report", read=_json)


def report_as(evaluation_id: str, format: str) -> Request[bytes]:  # noqa: A002  # its name over HTTP
    """Read the report in another format, such as html, markdown, latex, csv, parquet, methods or manifest."""
    params = {"format": format}
    return Request(method="GET", path=f"{_path(evaluation_id)}/report", read=_content, params=params)


def rows(evaluation_id: str) -> Request[list[dict[str, Any]]]:
    """Read what happened to every image: one record per image, model and condition."""
    params = {"format": "csv"}
    return Request(method="GET", path=f"{_path(evaluation_id)}/report", read=_records, params=params)


def class_scores(evaluation_id: str, *, model: str, condition: int = 0) -> Request[ClassResults]:
    """Read how well a model does on each class under a condition, and what the images of the class are taken for."""
    params = {"model": model, "condition": condition}
    return Request(method="GET", path=f"{_path(evaluation_id)}/classes", read=_json, params=params)


def calibration(evaluation_id: str, *, model: str, condition: int = 0) -> Request[CalibrationView]:
    """Read how far the confidences of a model can be trusted under a condition, and what abstaining by them would gain."""
    params = {"model": model, "condition": condition}
    return Request(method="GET", path=f"{_path(evaluation_id)}/calibration", read=_json, params=params)


def comparison(
    evaluation: str, *, model: str, other_model: str, other_evaluation: str | None = None
) -> Request[Comparison]:
    """Compare two models image by image, of one evaluation or of two."""
    params = {
        "evaluation": evaluation,
        "model": model,
        "other_model": other_model,
        "other_evaluation": other_evaluation,
    }
    return Request(method="GET", path="/v1/comparisons", read=_json, params=params)


def queue() -> Request[QueueView]:
    """Read what runs and what waits."""
    return Request(method="GET", path="/v1/queue", read=_json, params={"limit": 1000})


def control_queue(action: Literal["pause", "resume"]) -> Request[QueueView]:
    """Let the whole queue pause or resume; gives it."""
    return Request(method="POST", path=f"/v1/queue/{action}", read=_json)


def devices() -> Request[DeviceList]:
    """List the devices that run evaluations, and what each runs."""
    return Request(method="GET", path="/v1/devices", read=_json)


def failures(*, limit: int = 20) -> Request[FailureList]:
    """List the shards whose last try has failed, the latest first."""
    return Request(method="GET", path="/v1/failures", read=_json, params={"limit": limit})


def _path(evaluation_id: str) -> str:
    return f"/v1/evaluations/{quote(evaluation_id, safe='')}"


TEXTS = frozenset({"model", "condition", "file", "flipped_by"})
"""Columns of rows that hold text, even where it looks like a number."""


def _records(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = csv.DictReader(io.StringIO(answer.text, newline=""))
    return [{name: _value(name, cell) for name, cell in line.items()} for line in lines]


def _value(column: str, cell: str) -> str | float | bool | None:
    """Read a cell; what a spreadsheet would have computed begins with an apostrophe."""
    if cell == "":
        return None
    if column in TEXTS:
        return re.sub(r"^'(?=[=+\-@\t])", "", cell)
    if cell in {"True", "False"}:
        return cell == "True"
    with suppress(ValueError):
        return int(cell)
    return float(cell)
