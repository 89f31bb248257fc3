"""Attacks and transforms by name, created from validated parameters."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cache
from inspect import cleandoc
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from attacks.task import Attack, Transform
from common import Registry, describe_validation, unknown_name

_ATTACKS = Registry[type[Attack]]("attack")
_TRANSFORMS = Registry[type[Transform]]("transform")

Class = TypeVar("Class", bound=type)


class ParameterError(ValueError):
    """A parameter of an attack or transform is missing or out of range."""


def register_attack(name: str) -> Callable[[Class], Class]:
    """Register a dataclass as an attack under this name."""
    return _register(_ATTACKS, name)


def register_transform(name: str) -> Callable[[Class], Class]:
    """Register a dataclass as a transform under this name."""
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


@dataclass(frozen=True)
class Description:
    """An attack or transform for people who choose one.

    Attributes:
        name: the name that `create` or `create_transform` accepts.
        explanation: its documentation.
        parameters: JSON schema of each parameter, with type, range, default and meaning.
        kind: "transform"; "budget" for an attack that uses the whole radius; "minimal" for one that searches the smallest change,
            which counts if it lies within the radius.
        norms: those that an attack supports.
        targetable: whether an attack accepts targets.
    """

    name: str
    explanation: str
    parameters: dict[str, Any]
    kind: str
    norms: tuple[str, ...] = ()
    targetable: bool = False


def describe() -> list[Description]:
    """Describe all attacks, then all transforms."""
    return [_describe(_ATTACKS, name) for name in attack_names()] + [
        _describe(_TRANSFORMS, name) for name in transform_names()
    ]


def _describe(registry: Registry[Any], name: str) -> Description:
    cls = registry[name]
    explained = (name, cleandoc(cls.__doc__), _adapter(cls).json_schema().get("properties", {}))
    if registry is _TRANSFORMS:
        return Description(*explained, kind="transform")
    return Description(*explained, getattr(cls, "kind", "budget"), tuple(sorted(cls.norms)), cls.targetable)


def create(name: str, /, **parameters: object) -> Attack:
    """Create an attack.

    Raises:
        UnknownNameError: there is no such attack, or it has no such parameter.
        ParameterError: a parameter is missing or out of range.
    """
    return cast(Attack, _create(_ATTACKS[name], name, parameters))


def create_transform(name: str, /, **parameters: object) -> Transform:
    """Create a transform; raises the same errors as `create`."""
    return cast(Transform, _create(_TRANSFORMS[name], name, parameters))


def _create(cls: type, name: str, parameters: dict[str, object]) -> object:
    allowed = [field.name for field in fields(cls)]
    for parameter in parameters:
        if parameter not in allowed:
            raise unknown_name(f"parameter of {name}", parameter, allowed)
    try:
        return _adapter(cls).validate_python(parameters)
    except ValidationError as error:
        raise ParameterError(f"{name}: {describe_validation(error)}") from None


@cache
def _adapter(cls: type) -> TypeAdapter[object]:
    return TypeAdapter(cls)


def parameters(created: Attack | Transform) -> dict[str, object]:
    """Read all parameters of an attack or transform, defaults included."""
    return asdict(cast(Any, created))
