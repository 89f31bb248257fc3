"""Hashes that name content: the same question or the same bytes, the same name."""

import hashlib
import json
from pathlib import Path


def canonical_json(value: object) -> str:
    """Write JSON in the one form that is hashed: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def text_sha256(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, as 64 hexadecimal digits; of a path, the bytes that the operating system knows."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
