"""What every layer shares: registries of names, canonical hashes, errors in one line, the meaning of float32."""

from common.float32 import Float32, float32_as, float32_meaning, set_float32
from common.hashing import canonical_json, file_sha256, text_sha256
from common.names import Registry, UnknownNameError, counted, printable, unknown_name
from common.validation import describe_validation

__all__ = [
    "Float32",
    "Registry",
    "UnknownNameError",
    "canonical_json",
    "counted",
    "describe_validation",
    "file_sha256",
    "float32_as",
    "float32_meaning",
    "printable",
    "set_float32",
    "text_sha256",
    "unknown_name",
]
