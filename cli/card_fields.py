"""Fields of a card, as written on the command line."""

import json
from pathlib import Path
from typing import Any, cast


def read_card_fields(card: Path | None, assignments: list[str]) -> dict[str, Any]:
    """Read fields of a card.

    Args:
        card: a JSON file with an object of fields.
        assignments: more fields as field=value, which take precedence. A dot leads into a mapping: preprocessing.crop=32. Names
            of classes and lists of numbers are separated by commas, or written as JSON.

    Raises:
        ValueError: the file holds no object, or an assignment has no field.
        OSError: the file cannot be read.
    """
    fields: Any = {} if card is None else json.loads(card.read_text())
    if not isinstance(fields, dict):
        raise ValueError(f"{card} is no card: expected a JSON object, got {type(fields).__name__}")
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise ValueError(f"--set needs FIELD=VALUE, got {assignment!r}")
        target: Any = fields
        *outer, last = path.split(".")
        for part in outer:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise ValueError(f"--set {assignment}: {part} has no fields, its value is {target!r}")
        target[last] = text.split(",") if path == "classes" and not text.startswith("[") else _value(text)
    return cast(dict[str, Any], fields)


def _value(text: str) -> object:
    for json_text in (text, f"[{text}]"):
        try:
            value: object = json.loads(json_text)
        except ValueError:
            continue
        if json_text == text or _are_numbers(value):
            return value
    return text


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, int | float) for each in cast(list[object], value))
