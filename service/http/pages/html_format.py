"""HTML: a report as one page that needs no other file."""

from evaluation import Format, Report, register_format
from service.http.pages.example_pictures import inlined
from service.http.pages.sections import of_report
from service.http.pages.templates import render


def render_report(report: Report) -> str:
    """Write a report as one HTML file that needs no other."""
    return render("report.html", id=report.plan.id, sections=of_report(report, inlined), root="")


register_format(
    Format(
        name="html",
        media_type="text/html",
        suffix=".html",
        description="one page for people: tables, curves, trust, pictures of what was flipped, with attention before and after",
        write=lambda report, rows: render_report(report),
    )
)
