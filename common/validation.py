"""Values that are validated when they are created, and validation errors on one line."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Strict, ValidationError

Whole = Annotated[int, Strict()]
"""A whole number as JSON writes one: true is none, nor is "1"."""


class Frozen(BaseModel):
    """A value that never changes; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def describe_validation(error: ValidationError) -> str:
    """List each field that is wrong, with the reason and the value received."""
    facts = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}, got {each['input']!r}" for each in error.errors()]
    return "; ".join(facts)
