"""Templates of the pages."""

from pathlib import Path
from typing import cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evaluation.statistics import Proportion

WEB = Path(__file__).parent / "web"

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(WEB / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: object) -> str:
    """Fill a template; everything in it is escaped."""
    return _ENVIRONMENT.get_template(template).render(**values)


def _percent(score: float) -> str:
    return f"{100 * score:.1f}"


def _hue(score: Proportion) -> int:
    """From red (0) over yellow to green (120), in degrees of the colour circle."""
    return round(120 * score.value)


def _style_sheet() -> str:
    return (WEB / "static" / "style.css").read_text()


cast(dict[str, object], _ENVIRONMENT.filters).update(percent=_percent, hue=_hue)
cast(dict[str, object], _ENVIRONMENT.globals).update(style_sheet=_style_sheet)
