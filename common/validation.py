"""Values that are checked when they are made, and what was wrong with them, on one line."""

from pydantic import BaseModel, ConfigDict, ValidationError


class Frozen(BaseModel):
    """A value that never changes; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def describe_validation(error: ValidationError) -> str:
    """Name each field that was wrong, why, and what was received."""
    facts = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}, got {each['input']!r}" for each in error.errors()]
    return "; ".join(facts)
