"""Values that are validated when they are created, and validation errors on one line."""

from pydantic import BaseModel, ConfigDict, ValidationError


class Frozen(BaseModel):
    """A value that never changes; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def describe_validation(error: ValidationError) -> str:
    """List each field that is wrong, with the reason and the value received."""
    facts = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}, got {each['input']!r}" for each in error.errors()]
    return "; ".join(facts)
