"""The chart of a study's ``[curve]``: accuracy against a dose, such as the rank of a layer.

Numbers have an axis; behind it, set apart, stand the places that are no number (``full``). Arms to
compare with are level lines, named at their right end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convprior._drawing import INK, inline
from convprior._optional import require
from convprior.lab.report.drawing import render, series_colors, short_names
from convprior.lab.study.comparison import Summary
from convprior.lab.study.curve import Curve, Place, find_place
from convprior.lab.study.design import Slot, Study
from convprior.lab.study.tables import printable

WIDE, NARROW = 660, 460
"""Pixels of a chart that has the page for itself, and of one of several."""
_HEIGHT = 300
_AXIS, _LETTER, _GAP = 62, 6.4, 12
"""Pixels of the axis of accuracies, of a letter, and between two panels."""
_APART = 16
"""Pixels between the names of two level lines."""
_DODGE = 6
"""Pixels between the points of two lines at one value."""
_STYLES = {"solid": [1, 0], "dashed": [7, 4], "dotted": [2, 4]}
"""Dashes of the styles of lines; the points of all but the first are hollow."""
POINTS = {"solid": "\u25cf", "dashed": "\u25cb", "dotted": "\u25c7"}
"""Their points, as letters for a legend: a line of one point shows nothing else."""
_DASHES = ([6, 4], [2, 3], [10, 4], [8, 3, 2, 3])


@dataclass(frozen=True)
class DosePanel:
    """The curve on one data set and network."""

    data: str
    model: str
    points: list[tuple[Place, Summary]]
    """Where each arm lies, and its accuracy."""
    references: list[Summary]


def dose_panels(study: Study, summaries: Sequence[Summary]) -> list[DosePanel]:
    """Gathers the finished arms by data set and network; without ``[curve]`` there is nothing."""
    if study.curve is None:
        return []
    panels: dict[tuple[str, str], DosePanel] = {}
    for one in summaries:
        if one.mean is None:
            continue
        place = find_place(study, Slot(one.arm, one.data, one.model))
        if place is not None:
            at = panels.setdefault(place[:2], DosePanel(*place[:2], [], []))
            at.points.append((place, one))
    for one in summaries:
        panel = panels.get((one.data, one.model))
        if panel and one.arm in study.curve.references and one.mean is not None:
            panel.references.append(one)
    return list(panels.values())


@dataclass(frozen=True)
class Looks:
    """How lines are told apart, alike in every panel."""

    colors: dict[str, str]
    styles: dict[str, str]
    """As CSS of a border: ``solid``, ``dashed``, ``dotted``."""


def line_looks(panels: Sequence[DosePanel]) -> Looks:
    """A color for each group of lines, and a style for what else tells them apart.

    Where there is a word instead of a number it says what is there: a style that is met at words
    alone is solid.
    """
    places = [place for panel in panels for place, _ in panel.points]
    colors = series_colors(list(dict.fromkeys(place.color for place in places)))
    drawn = dict.fromkeys(place.style for place in places if not isinstance(place.x, str))
    styles = {style: list(_STYLES)[at % len(_STYLES)] for at, style in enumerate(drawn)}
    return Looks(colors, styles)


def draw_dose(panel: DosePanel, curve: Curve, looks: Looks, width: int) -> str:
    """One panel as SVG: means with 95 % intervals, a line each, and the level lines.

    Args:
        panel: what to draw.
        curve: the axis.
        looks: from :func:`line_looks`.
        width: in pixels.
    """
    alt = require("altair", "lab")
    every = [*(one for _, one in panel.points), *panel.references]
    low = min(v for one in every for v in (one.mean, one.low) if v is not None)
    high = max(v for one in every for v in (one.mean, one.high) if v is not None)
    room = 0.05 * (high - low) or 0.5
    domain = [low - room, high + room]
    scale = alt.Scale(domain=domain, nice=False, zero=False)

    names = short_names([one.arm for one in panel.references])
    right = max((_LETTER * len(name) + 2 * _GAP for name in names.values()), default=0)
    words = short_names(
        list(dict.fromkeys(place.x for place, _ in panel.points if isinstance(place.x, str)))
    )
    numbers = sorted({place.x for place, _ in panel.points if not isinstance(place.x, str)})
    left = width - _AXIS - right - 2 * _GAP * bool(names)
    least = 34 if numbers else 80
    strip = min(left, sum(max(least, _LETTER * len(word) + 10) for word in words.values()))
    main = left - strip - _GAP if words and numbers else left

    views = []
    title = printable(curve.title)
    if numbers:
        x = _number_axis(numbers, curve, title)
        views.append(_view(panel, x, scale, looks, main, {}, first=True))
    if words:
        x = _word_axis(list(words.values()), None if numbers else title)
        views.append(_view(panel, x, scale, looks, strip, words, first=not numbers))
    if panel.references:
        views.append(_names(panel.references, names, scale, domain, right))
    return render(alt.hconcat(*views, spacing=_GAP).resolve_scale(y="shared"))


def _number_axis(numbers: Sequence[float], curve: Curve, title: str) -> Any:
    alt = require("altair", "lab")
    ends = numbers[0], numbers[-1]
    if curve.log:
        room = (ends[1] / ends[0]) ** 0.05 if ends[0] < ends[1] else 2.0
        scale = alt.Scale(type="log", domain=[ends[0] / room, ends[1] * room], nice=False)
    else:
        room = 0.05 * (ends[1] - ends[0]) or 1
        scale = alt.Scale(domain=[ends[0] - room, ends[1] + room], nice=False, zero=False)
    # A label at each value that was run, where they do not collide.
    axis = alt.Axis(values=list(numbers), format="~r", labelOverlap="greedy", grid=True)
    return alt.X("x:Q", title=title, scale=scale, axis=axis)


def _word_axis(words: list[str], title: str | None) -> Any:
    alt = require("altair", "lab")
    axis = alt.Axis(labelAngle=0, labelLimit=200, grid=True)
    # The domain lists the words in order; without sort none enters an expression.
    scale = alt.Scale(type="point", domain=words, padding=0.5)
    return alt.X("x:N", title=title, sort=None, axis=axis, scale=scale)


def _view(
    panel: DosePanel,
    x: Any,
    scale: Any,
    looks: Looks,
    width: float,
    words: Mapping[str, str],
    *,
    first: bool,
) -> Any:
    """Level lines, and on them points with their intervals.

    Those that are numbers; or, given ``words`` and what is written for each, the others.
    """
    alt = require("altair", "lab")
    metric = panel.points[0][1].metric.replace("_", " ")
    grid = alt.Axis(grid=True, tickCount=6)
    axis = grid if first else alt.Axis(grid=True, tickCount=6, labels=False)
    y = alt.Y("y:Q", title=f"{metric} in %" if first else None, scale=scale, axis=axis)
    layers = [_level(one, at, y) for at, one in enumerate(panel.references)]
    own = [(place, one) for place, one in panel.points if isinstance(place.x, str) == bool(words)]
    lines = list(dict.fromkeys((place.color, place.style) for place, _ in own))
    for at, (color, style) in enumerate(lines):
        rows = [
            {"x": words.get(str(place.x), place.x), "y": one.mean, "low": one.low, "high": one.high}
            for place, one in own
            if (place.color, place.style) == (color, style)
        ]
        look = {"color": looks.colors[color], "xOffset": _DODGE * (at - (len(lines) - 1) / 2)}
        layers += _line(rows, x, y, look, looks.styles.get(style, "solid"), joined=not words)
    return alt.layer(*layers).properties(width=width, height=_HEIGHT)


def _line(
    rows: list[dict[str, Any]], x: Any, y: Any, look: dict[str, Any], style: str, *, joined: bool
) -> list[Any]:
    alt = require("altair", "lab")
    look = {"aria": False, **look}
    chart = alt.Chart(inline(sorted(rows, key=lambda row: row["x"]) if joined else rows))
    bars = alt.Chart(inline([row for row in rows if row["low"] is not None]))
    bar = bars.mark_rule(**look, strokeWidth=2, strokeCap="round", opacity=0.75)
    shape = "diamond" if style == "dotted" else "circle"
    dot = chart.mark_point(
        **look, shape=shape, filled=style == "solid", size=70, strokeWidth=2, opacity=1
    )
    marks = [bar.encode(x=x, y=alt.Y("low:Q"), y2="high:Q"), dot.encode(x=x, y=y)]
    line = chart.mark_line(**look, strokeWidth=2, opacity=0.75, strokeDash=_STYLES[style])
    return [line.encode(x=x, y=y), *marks] if joined else marks


def _level(one: Summary, at: int, y: Any) -> Any:
    alt = require("altair", "lab")
    look = {"aria": False, "color": INK, "strokeWidth": 1.5, "opacity": 0.6}
    rule = alt.Chart(inline([{"y": one.mean}])).mark_rule(**look)
    return rule.encode(y=y, strokeDash=alt.value(_DASHES[at % len(_DASHES)]))


def _names(
    references: Sequence[Summary],
    names: Mapping[str, str],
    scale: Any,
    domain: Sequence[float],
    width: float,
) -> Any:
    """The names of the level lines, pushed apart where they are close, each led to its line."""
    alt = require("altair", "lab")
    unit = (domain[1] - domain[0]) / _HEIGHT
    order = sorted(references, key=lambda one: one.mean or 0.0)
    places = spread([one.mean or 0.0 for one in order], _APART * unit, domain)
    rows = [
        {"y": one.mean, "at": place, "name": names[one.arm], "x": 0, "x2": 1}
        for one, place in zip(order, places, strict=True)
    ]
    base = alt.Chart(inline(rows))
    y = alt.Y("y:Q", scale=scale, axis=None)
    lead = base.mark_rule(aria=False, color=INK, opacity=0.6).encode(
        x=alt.value(-_GAP), x2=alt.value(_GAP - 2), y=y, y2="at:Q"
    )
    text = base.mark_text(aria=False, align="left", color=INK, fontSize=12).encode(
        x=alt.value(_GAP + 2), y=alt.Y("at:Q", scale=scale, axis=None), text="name:N"
    )
    return alt.layer(lead, text).properties(width=width, height=_HEIGHT)


def spread(values: Sequence[float], apart: float, domain: Sequence[float]) -> list[float]:
    """Places near ascending ``values``, at least ``apart`` from each other, inside ``domain``.

    Values that are too close form a block around their mean; blocks that then touch become one.
    """

    def inside(center: float, n: int) -> float:
        half = apart * (n - 1) / 2
        return min(max(center, domain[0] + half), domain[1] - half)

    blocks: list[tuple[float, int]] = []  # (mean of its values, how many)
    for value in values:
        blocks.append((value, 1))
        while len(blocks) > 1:
            (before, m), (center, n) = blocks[-2:]
            if inside(center, n) - inside(before, m) >= apart * (m + n) / 2:
                break
            blocks[-2:] = [((m * before + n * center) / (m + n), m + n)]
    return [
        inside(center, n) + apart * (at - (n - 1) / 2) for center, n in blocks for at in range(n)
    ]
