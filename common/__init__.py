"""What every layer shares: registries of names and canonical hashes."""

from common.hashing import canonical_json, file_sha256, text_sha256
from common.names import Registry, UnknownNameError, unknown_name

__all__ = ["Registry", "UnknownNameError", "canonical_json", "file_sha256", "text_sha256", "unknown_name"]
