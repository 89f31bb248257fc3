"""JSON, the form that can be read back."""

from evaluation.reports.registry import Format, register_format

register_format(
    Format(
        name="json",
        media_type="application/json",
        suffix=".json",
        description="the whole report for programs; has a `schema_version`",
        write=lambda report, rows: report.model_dump_json(indent=2),
    )
)
