"""The form of a new evaluation: what its fields mean as a specification, and how one is written into them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

import attacks
from attacks import Norm, ThreatModel
from common.validation import describe_validation
from evaluation import Condition, EvaluationSpec, conditions_of

Fields = Mapping[str, Sequence[str]]
"""Values of the form's fields by name; several of one name where several are chosen."""

MOST_FIELDS, MOST_VALUES, LONGEST_VALUE = 100, 500, 10_000
"""Of a form that is read: names, values of a name, and characters of a value."""

SIMPLE = (
    "images",
    "precision",
    "stop_width",
    "seed",
    "selection_seed",
    "logits",
    "on_broken",
    "randomised",
    "eot_passes",
    "judged_passes",
)
"""Fields of a specification that the form has as they are; an empty one is not given."""

_CONDITION: TypeAdapter[Condition] = TypeAdapter(Condition)


class FormError(ValueError):
    """A form that is no specification; the message says which field is wrong, what was received and what is allowed."""


def require_short(fields: Fields) -> None:
    """Refuse a form that is larger than any that a browser sends.

    Raises:
        FormError: it has too many fields or values, or too long ones.
    """
    if len(fields) > MOST_FIELDS:
        raise FormError(f"the form has {len(fields)} fields, at most {MOST_FIELDS} are read")
    for name, values in fields.items():
        if len(values) > MOST_VALUES or any(len(value) > LONGEST_VALUE for value in values):
            raise FormError(f"{name[:100]}: at most {MOST_VALUES} values of {LONGEST_VALUE} characters are read")


def spec_of(fields: Fields) -> EvaluationSpec:
    """Read the specification that a form describes.

    Raises:
        FormError: the fields describe none.
        UnknownNameError: a preset has an unknown name.
    """
    given: dict[str, Any] = {
        "models": [*fields.get("models", ())],
        "dataset": _one(fields, "dataset"),
        **{name: _number(value) for name in SIMPLE if (value := _one(fields, name))},
    }
    if not given["models"]:
        raise FormError("models: choose at least one")
    if not given["dataset"]:
        raise FormError("dataset: choose one")
    try:
        chosen = conditions_of(fields.get("presets", ()), _threat(fields))
        added = [_CONDITION.validate_json(text) for text in fields.get("conditions", ())]
        conditions = {each.title: each for each in (*chosen, *added)}
        if conditions:
            given["conditions"] = tuple(conditions.values())
        return EvaluationSpec.model_validate(given)
    except ValidationError as error:
        raise FormError(describe_validation(error)) from error
    except attacks.ParameterError as error:
        raise FormError(str(error)) from error


def condition_of(fields: Fields) -> Condition:
    """Read the attack or change that is to be added.

    Raises:
        FormError: its parameters are wrong.
    """
    kind, _, name = _one(fields, "added").partition(" ")
    prefix = f"{name}."
    parameters = {
        field.removeprefix(prefix): _number(value)
        for field in fields
        if field.startswith(prefix) and (value := _one(fields, field))
    }
    restarts = parameters.pop("(restarts)", 1)
    threat = {each: parameters.pop(f"({each})", None) for each in ("norm", "eps")}
    targets = parameters.pop("(targets)", None)
    choice = {"name": name, "parameters": parameters}
    body: dict[str, Any] = {"kind": "transform"} | choice
    if kind == "attack":
        attack = choice | {"restarts": restarts}
        body = {"kind": "adversarial", "threat": threat, "attacks": [attack], "targets": targets}
    try:
        return _CONDITION.validate_python(body)
    except ValidationError as error:
        raise FormError("; ".join(f"{_place(each['loc'])}{each['msg']}" for each in error.errors())) from error
    except ValueError as error:  # an unknown name or parameter
        raise FormError(str(error)) from error


def fields_of(spec: EvaluationSpec) -> dict[str, list[str]]:
    """Write a specification into fields; `spec_of` reads the same from them."""
    written = {name: getattr(spec, name) for name in SIMPLE}
    return {
        "models": [*spec.models],
        "dataset": [spec.dataset],
        "conditions": [each.model_dump_json() for each in spec.conditions],
        **{name: [] if value is None else [_text(value)] for name, value in written.items()},
    }


def _threat(fields: Fields) -> ThreatModel | None:
    eps = _one(fields, "eps")
    if not eps:
        return None
    return TypeAdapter(ThreatModel).validate_python({"norm": _one(fields, "norm") or Norm.LINF, "eps": eps})


def _one(fields: Fields, name: str) -> str:
    return next((value.strip() for value in fields.get(name, ())), "")


def _number(text: str) -> object:
    """A number or truth value as JSON writes it; else the text itself, such as "8/255"."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _place(location: tuple[int | str, ...]) -> str:
    names = [str(each) for each in location if isinstance(each, str) and each not in {"adversarial", "transform"}]
    return f"{names[-1]}: " if names else ""
