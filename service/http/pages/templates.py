"""Templates of the pages."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast, get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from attacks import TargetRule
from evaluation.spec import NAME_PATTERN
from evaluation.statistics import Proportion
from service.http.pages.drawings import draw, draw_reliability, draw_scores, marker
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


def _size(size_bytes: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= size:
            return f"{size_bytes / size:.1f} {unit}"
    return f"{size_bytes} bytes"


def _is_name(text: str) -> bool:
    """Whether a route can be asked for it; files may be called anything."""
    return re.fullmatch(NAME_PATTERN, text) is not None


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
    size=_size,
    utc=_utc,
)
cast(dict[str, object], _ENVIRONMENT.tests).update(name=_is_name)
cast(dict[str, object], _ENVIRONMENT.globals).update(
    style_sheet=_style_sheet,
    kinds=kinds,
    target_rules=get_args(TargetRule),
    draw=draw,
    draw_reliability=draw_reliability,
    draw_scores=draw_scores,
    marker=marker,
)
