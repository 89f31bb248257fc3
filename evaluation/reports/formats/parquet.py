"""Parquet: one row per image, with the manifest."""

import io
from importlib import import_module
from typing import Any

from common import canonical_json
from evaluation.reports.formats.manifest import manifest
from evaluation.reports.registry import Format, FormatError, register_format
from evaluation.reports.report import Report


def to_parquet(rows: list[dict[str, Any]], report: Report) -> bytes:
    """Write rows of `image_rows` as a Parquet file, with the manifest in its metadata.

    Raises:
        FormatError: pyarrow is not installed.
    """
    try:
        pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise FormatError("Parquet files need pyarrow: uv pip install '.[parquet]'") from error
    table = pyarrow.Table.from_pylist(rows).replace_schema_metadata({"withstand": canonical_json(manifest(report))})
    written = io.BytesIO()
    parquet.write_table(table, written)
    return written.getvalue()


register_format(
    Format(
        name="parquet",
        media_type="application/vnd.apache.parquet",
        suffix=".parquet",
        description="one row per image, model and condition; needs `uv pip install '.[parquet]'`",
        write=lambda report, rows: to_parquet(rows(), report),
        compressed=True,
    )
)
