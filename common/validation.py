"""What pydantic found wrong, on one line."""

from pydantic import ValidationError


def describe_validation(error: ValidationError) -> str:
    """Name each field that was wrong, why, and what was received."""
    facts = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}, got {each['input']!r}" for each in error.errors()]
    return "; ".join(facts)
