"""Attacks and transforms by name, made from parameters that are checked."""

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from attacks._types import Attack, Transform
from common import Registry, describe_validation, unknown_name

_ATTACKS = Registry[type[Attack]]("attack")
_TRANSFORMS = Registry[type[Transform]]("transform")

Class = TypeVar("Class", bound=type)


class ParameterError(ValueError):
    """A parameter of an attack or transform is missing or out of its range."""


def register_attack(name: str) -> Callable[[Class], Class]:
    """Make a dataclass known as an attack under this name."""
    return _register(_ATTACKS, name)


def register_transform(name: str) -> Callable[[Class], Class]:
    """Make a dataclass known as a transform under this name."""
    return _register(_TRANSFORMS, name)


def _register(registry: Registry[Any], name: str) -> Callable[[Class], Class]:
    def decorate(cls: Class) -> Class:
        cls.__pydantic_config__ = ConfigDict(extra="forbid")
        registry.add(name, cls)
        return cls

    return decorate


def attack_names() -> list[str]:
    """List the names of all attacks."""
    return _ATTACKS.names()


def transform_names() -> list[str]:
    """List the names of all transforms."""
    return _TRANSFORMS.names()


def create(name: str, /, **parameters: object) -> Attack:
    """Make an attack.

    Raises:
        UnknownNameError: there is no such attack, or it has no such parameter.
        ParameterError: a parameter is missing or out of its range.
    """
    return cast(Attack, _create(_ATTACKS[name], name, parameters))


def create_transform(name: str, /, **parameters: object) -> Transform:
    """Make a transform; raises as `create` does."""
    return cast(Transform, _create(_TRANSFORMS[name], name, parameters))


def _create(cls: type, name: str, parameters: dict[str, object]) -> object:
    allowed = [field.name for field in fields(cls)]
    for parameter in parameters:
        if parameter not in allowed:
            raise unknown_name(f"parameter of {name}", parameter, allowed)
    try:
        return TypeAdapter(cls).validate_python(parameters)
    except ValidationError as error:
        raise ParameterError(f"{name}: {describe_validation(error)}") from None


def parameters(created: Attack | Transform) -> dict[str, object]:
    """Read all parameters of an attack or transform, defaults included."""
    return asdict(cast(Any, created))
