"""Templates of the pages."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast, get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from attacks import TargetRule
from evaluation.reports.charts import Chart
from evaluation.statistics import Proportion
from service.http.pages.example_pictures import kinds

NAMED = 3
"""Models of an evaluation that are named where there is no room for all."""

WEB = Path(__file__).parents[2] / "web"

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


def macro(template: str, name: str, *values: object) -> Markup:
    """Fill a macro of a template."""
    return getattr(_ENVIRONMENT.get_template(template).module, name)(*values)


_WIDTH, _HEIGHT, _MARGIN = 640, 280, 40
"""Of a chart, in its own units."""


def _svg(chart: Chart) -> Markup:
    """Draw the lines of a chart with their intervals; percent from 0 to 100 upwards."""
    xs = sorted({x for series in chart.series for x, _ in series.points})
    span = (xs[-1] - xs[0]) or 1.0

    def at(x: float, y: float) -> str:
        across = _MARGIN + (x - xs[0]) / span * (_WIDTH - 2 * _MARGIN)
        return f"{across:.1f},{_HEIGHT - _MARGIN - y * (_HEIGHT - 2 * _MARGIN):.1f}"

    parts = [
        f'<line class="grid" x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" y1="{y}" y2="{y}"/><text x="4" y="{y + 4}">{percent}</text>'
        for percent in (0, 25, 50, 75, 100)
        for y in [_HEIGHT - _MARGIN - percent / 100 * (_HEIGHT - 2 * _MARGIN)]
    ]
    labelled = xs if len(xs) <= 12 else xs[:: -(-len(xs) // 12)]
    parts += [
        f'<text text-anchor="middle" x="{at(x, 0).split(",")[0]}" y="{_HEIGHT - _MARGIN / 2}">{x:g}</text>'
        for x in labelled
    ]
    for index, series in enumerate(chart.series):
        low = [at(x, score.low) for x, score in series.points]
        high = [at(x, score.high) for x, score in reversed(series.points)]
        middle = [at(x, score.value) for x, score in series.points]
        dots = "".join(f'<circle r="3" cx="{x}" cy="{y}"/>' for x, y in (point.split(",") for point in middle))
        parts.append(
            f'<g class="series{index % 8}"><polygon points="{" ".join(low + high)}"/>'
            f'<polyline points="{" ".join(middle)}"/>{dots}</g>'
        )
    return Markup(f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg>')  # noqa: S704  numbers only


def _percent(score: float) -> str:
    return f"{100 * score:.1f}"


def _breakable(name: str) -> Markup:
    """Let a long name break after its dots and underscores."""
    return Markup(str(escape(name)).replace(".", ".<wbr>").replace("_", "_<wbr>"))  # noqa: S704  escaped


def _hue(score: Proportion) -> int:
    """From red (0) over yellow to green (120), in degrees of the colour circle."""
    return round(120 * score.value)


def _utc(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"


def _age(since: datetime) -> str:
    return _duration((datetime.now(UTC) - since).total_seconds())


def _duration(seconds: float) -> str:
    """Write a duration in the largest unit of which there are two or more."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _amount(count: int) -> str:
    """Write a large number in words, such as "1.2 million"."""
    for word, size in (("trillion", 10**12), ("billion", 10**9), ("million", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {word}"
    return f"{count:,}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f}"


def _brief(names: Sequence[str]) -> str:
    """Name the first few, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _style_sheet() -> str:
    return (WEB / "static" / "style.css").read_text()


cast(dict[str, object], _ENVIRONMENT.filters).update(
    age=_age,
    amount=_amount,
    breakable=_breakable,
    brief=_brief,
    counted=_counted,
    duration=_duration,
    gib=_gib,
    hue=_hue,
    percent=_percent,
    svg=_svg,
    utc=_utc,
)
cast(dict[str, object], _ENVIRONMENT.globals).update(
    style_sheet=_style_sheet, kinds=kinds, target_rules=get_args(TargetRule)
)
