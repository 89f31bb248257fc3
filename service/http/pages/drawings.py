"""Charts as SVG: lines with their intervals, scores around a circle, and every score with its interval on one axis.

A model has the same colour and the same marker everywhere. The colours are those of Okabe and Ito (2008), which people with any
common colour vision tell apart.
"""

from collections.abc import Callable, Iterable, Sequence
from math import cos, radians, sin

from markupsafe import Markup, escape

from evaluation import Report
from evaluation.reports.calibration import Calibration
from evaluation.reports.charts import Chart, Series
from evaluation.statistics import Proportion, share

WIDTH, HEIGHT = 640, 300
"""Of a chart with lines, in its own units."""

LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 46
"""Its margins: titles and numbers of the axes are in them."""

SIDE, RADIUS = 420, 160
"""Of a round chart, and of the circle that is 100 percent."""

ROW, GAP, NAMES = 13, 9, 250
"""Of the chart with all scores: height of a score, space between conditions, and width of the conditions' names."""

PERCENTS = (0, 25, 50, 75, 100)
MOST_LABELS = 12
COLOURS = 8

LONGEST_NAME = 36
"""Characters of a condition's name that are drawn."""

_MARKERS = (
    '<circle r="4"/>',
    '<path d="M-3.6-3.6h7.2v7.2h-7.2z"/>',
    '<path d="M0-4.8l4.6 8.2h-9.2z"/>',
    '<path d="M0-5l4.4 5-4.4 5-4.4-5z"/>',
    '<path d="M0 4.8l4.6-8.2h-9.2z"/>',
    '<path d="M-1.4-4.5h2.8v3.1h3.1v2.8h-3.1v3.1h-2.8v-3.1h-3.1v-2.8h3.1z"/>',
)


def marker(index: int) -> Markup:
    """The marker of the model with this position, as a picture of its own for a legend."""
    content = f'<svg class="key series{index % COLOURS}" viewBox="-6 -6 12 12" aria-hidden="true">{_shape(index)}</svg>'
    return Markup(content)  # noqa: S704  # numbers, and texts that are escaped


def draw(chart: Chart) -> Markup:
    """Draw a chart: around a circle where its numbers are angles, else as lines over an axis."""
    is_round = (
        chart.x_label.startswith("degrees") and len({x for each in chart.series for x, _ in each.points}) > COLOURS
    )
    return _polar(chart) if is_round else _lines(chart)


def draw_scores(report: Report) -> Markup:
    """Draw the score of every model under every condition with its interval."""
    models = len(report.models)
    height = len(report.models[0].conditions) * (models * ROW + GAP) + TOP + BOTTOM
    across = _across(NAMES, WIDTH - RIGHT)
    parts = [_vertical(across(percent / 100), TOP, height - BOTTOM, str(percent)) for percent in PERCENTS]
    parts.append(_text((NAMES + WIDTH - RIGHT) / 2, height - 8, "score, percent", anchor="middle"))
    for place, condition in enumerate(report.models[0].conditions):
        top = TOP + place * (models * ROW + GAP)
        parts.append(_text(NAMES - 10, top + models * ROW / 2 + 4, _short(condition.title), anchor="end"))
        for index, model in enumerate(report.models):
            if score := model.conditions[place].score:
                parts.append(_interval(index, score, across, top + (index + 0.5) * ROW))
    return _svg(WIDTH, height, "Every score with its 95 % interval; the table has the same numbers", parts)


def draw_reliability(calibration: Calibration) -> Markup:
    """Draw the accuracy of images of about the same confidence against it, each with its interval."""
    down, along = _across(HEIGHT - BOTTOM, TOP), _across(LEFT, WIDTH - RIGHT)
    parts = [_horizontal(down(percent / 100), str(percent)) for percent in PERCENTS]
    parts += [_vertical(along(percent / 100), TOP, HEIGHT - BOTTOM, str(percent)) for percent in PERCENTS]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "confidence, percent", anchor="middle"))
    parts.append(_beside("accuracy, percent"))
    parts.append(f'<line class="calibrated" x1="{along(0):g}" y1="{down(0):g}" x2="{along(1):g}" y2="{down(1):g}"/>')
    for each in calibration.bins:
        score = share(round(each.accuracy * each.n), each.n)
        x = along(each.confidence)
        line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{down(score.low):.1f}" y2="{down(score.high):.1f}"/>'
        placed = f'<g transform="translate({x:.1f} {down(score.value):.1f})">{_shape(0)}</g>'
        parts.append(f'<g class="series0">{line}{placed}</g>')
    return _svg(WIDTH, HEIGHT, "Reliability diagram: accuracy against confidence", parts)


def _lines(chart: Chart) -> Markup:
    xs = sorted({x for series in chart.series for x, _ in series.points})
    span = (xs[-1] - xs[0]) or 1.0
    down = _across(HEIGHT - BOTTOM, TOP)

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + (x - xs[0]) / span * (WIDTH - LEFT - RIGHT), down(y)

    parts = [_horizontal(down(percent / 100), str(percent)) for percent in PERCENTS]
    parts += [_text(at(x, 0)[0], HEIGHT - BOTTOM + 16, f"{x:g}", anchor="middle") for x in _thinned(xs)]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, chart.x_label, anchor="middle"))
    parts.append(_beside("percent"))
    for index, series in enumerate(chart.series):
        parts.append(_band(index, [at(x, s.low) for x, s in series.points], [at(x, s.high) for x, s in series.points]))
        parts.append(_path(index, [at(x, s.value) for x, s in series.points]))
    return _svg(WIDTH, HEIGHT, f"{chart.title}: accuracy against {chart.x_label}", parts)


def _polar(chart: Chart) -> Markup:
    """Zero degrees are at the top, and angles go clockwise, as pictures are turned."""

    def at(degrees: float, share: float) -> tuple[float, float]:
        angle = radians(degrees)
        return SIDE / 2 + share * RADIUS * sin(angle), SIDE / 2 - share * RADIUS * cos(angle)

    middle = SIDE / 2
    parts = [
        f'<circle class="grid" cx="{middle:g}" cy="{middle:g}" r="{percent / 100 * RADIUS:g}"/>'
        for percent in PERCENTS[1:]
    ]
    for degrees in range(0, 360, 45):
        (x, y), (beyond_x, beyond_y) = at(degrees, 1), at(degrees, 1.15)
        parts.append(f'<line class="grid" x1="{middle:g}" y1="{middle:g}" x2="{x:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(beyond_x, beyond_y + 4, f"{degrees}°", anchor="middle"))
    parts += [_text(*at(22, percent / 100), f"{percent} %") for percent in PERCENTS[1:]]
    for index, series in enumerate(chart.series):
        parts.append(_band(index, [at(x, s.low) for x, s in series.points], [at(x, s.high) for x, s in series.points]))
        parts.append(_path(index, [at(x, s.value) for x, s in series.points], closed=_is_full(series)))
    return _svg(SIDE, SIDE, f"{chart.title}: accuracy against {chart.x_label}, around a circle", parts)


def _is_full(series: Series) -> bool:
    """Whether its angles go all around: the last is as far from the first as neighbours are from each other."""
    xs = [x for x, _ in series.points]
    return len(xs) > 2 and abs(360 - xs[-1] + xs[0] - (xs[1] - xs[0])) < 1e-6


def _across(start: float, end: float) -> Callable[[float], float]:
    """Place shares of an axis that goes from `start` to `end`."""
    return lambda share: start + share * (end - start)


def _band(index: int, low: Sequence[tuple[float, float]], high: Sequence[tuple[float, float]]) -> str:
    return f'<polygon class="series{index % COLOURS}" points="{_points([*low, *reversed(high)])}"/>'


def _path(index: int, points: Sequence[tuple[float, float]], *, closed: bool = False) -> str:
    drawn = _points([*points, *points[:1]] if closed else points)
    markers = "".join(f'<g transform="translate({x:.1f} {y:.1f})">{_shape(index)}</g>' for x, y in points)
    return f'<g class="series{index % COLOURS}"><polyline points="{drawn}"/>{markers}</g>'


def _interval(index: int, score: Proportion, across: Callable[[float], float], y: float) -> str:
    line = f'<line x1="{across(score.low):.1f}" x2="{across(score.high):.1f}" y1="{y:g}" y2="{y:g}"/>'
    placed = f'<g transform="translate({across(score.value):.1f} {y:g})">{_shape(index)}</g>'
    return f'<g class="series{index % COLOURS}">{line}{placed}</g>'


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _shape(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]


def _horizontal(y: float, label: str) -> str:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:g}" y2="{y:g}"/>'
    return line + _text(LEFT - 8, y + 4, label, anchor="end")


def _vertical(x: float, top: float, bottom: float, label: str) -> str:
    line = f'<line class="grid" x1="{x:g}" x2="{x:g}" y1="{top:g}" y2="{bottom:g}"/>'
    return line + _text(x, bottom + 16, label, anchor="middle")


def _beside(title: str) -> str:
    """The title of the axis at the left."""
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return f'<text text-anchor="middle" transform="translate(13 {middle:g}) rotate(-90)">{escape(title)}</text>'


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _thinned(xs: Sequence[float]) -> Sequence[float]:
    return xs[:: -(-len(xs) // MOST_LABELS)]


def _short(title: str) -> str:
    return title if len(title) <= LONGEST_NAME else f"{title[: LONGEST_NAME - 1]}…"


def _svg(width: int, height: int, label: str, parts: Iterable[str]) -> Markup:
    """Put numbers, and texts that are escaped, together."""
    content = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    return Markup(content)  # noqa: S704  # numbers, and texts that are escaped
