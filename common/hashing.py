"""Hashes that identify content: equal values or equal bytes have the same hash."""

import hashlib
import json
from pathlib import Path


def canonical_json(value: object) -> str:
    """Write a value as JSON in the one form that is hashed: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def text_sha256(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, as 64 hexadecimal digits; a path is hashed as the bytes of the operating system."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
