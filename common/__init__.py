"""What every layer shares: registries of names, canonical hashes, validation errors on one line."""

from common.hashing import canonical_json, file_sha256, text_sha256
from common.names import Registry, UnknownNameError, counted, printable, unknown_name
from common.validation import describe_validation

__all__ = [
    "Registry",
    "UnknownNameError",
    "canonical_json",
    "counted",
    "describe_validation",
    "file_sha256",
    "printable",
    "text_sha256",
    "unknown_name",
]
