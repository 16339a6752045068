"""How charts look, and how they become SVG that sits inside a page.

Text and axes use ``currentColor``, so a chart follows the page into dark mode; the other colors
are those of Okabe and Ito (2008), told apart with every common form of color blindness, in shades
that are seen on white and on black. Nothing gets an ``id``: several charts share one page.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

from convprior._optional import require
from convprior.lab.study.tables import printable

INK = "currentColor"
QUIET = "#8a8f98"
BLUE, VERMILION, GREEN = "#0072b2", "#d55e00", "#009e73"
PURPLE, ORANGE, SKY = "#cc79a7", "#e69f00", "#56b4e9"
VERDICT_COLORS = {"helps": BLUE, "hurts": VERMILION, "not shown": QUIET}

WIDTH = 440
"""Of every chart in pixels; the page shrinks it where there is less room."""
MOST_COLORS = 6
"""Arms that fit into one panel of lines; more get a panel each."""

_LONGEST, _HEAD, _TAIL = 24, 13, 10
_ARMS = (VERMILION, BLUE, GREEN, PURPLE, ORANGE, SKY)


def arm_colors(arms: Sequence[str], baseline: str) -> dict[str, str]:
    """A color for each arm, gray for the baseline; the cycle repeats after six."""
    others = [arm for arm in arms if arm != baseline]
    colors = {arm: _ARMS[i % len(_ARMS)] for i, arm in enumerate(others)}
    return {baseline: QUIET, **colors}


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names that fit beside a chart: long ones lose their middle, and stay different.

    A control character, which XML forbids, would end the process inside the renderer.
    """
    short: dict[str, str] = {}
    for name in names:
        text = printable(name)
        label = text if len(text) <= _LONGEST else f"{text[:_HEAD]}…{text[-_TAIL:]}"
        if label in short.values():
            label = f"{text[:_HEAD]}… ({len(short) + 1})"
        short[name] = label
    return short


def inline(values: Sequence[dict[str, Any]]) -> Any:
    """Rows as the data of a chart, without pandas."""
    return require("altair", "lab").InlineData(values=list(values))


def render(chart: Any) -> str:
    """A chart as an SVG element with a viewBox; every name in it is escaped by the renderer."""
    require("vl_convert", "lab")
    buffer = io.StringIO()
    _styled(chart).save(buffer, format="svg")
    # The roles describe a chart that its caption and tables say in words already.
    svg = re.sub(r' (?:role|aria-[a-z]+|pointer-events)="[^"<>]*"', "", buffer.getvalue())
    return svg[svg.index("<svg") :]


def _styled(chart: Any) -> Any:
    quiet = {"aria": False, "grid": False, "ticks": False, "domain": False}
    axis = {
        "labelColor": INK,
        "titleColor": INK,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelPadding": 6,
        "gridColor": QUIET,
        "gridOpacity": 0.25,
        "labelLimit": 180,
    }
    return (
        chart.configure(
            font="Arial, Helvetica, sans-serif",
            background="transparent",
            padding=4,
        )
        .configure_view(stroke=None)
        .configure_axis(**quiet, **axis)
        .configure_axisX(grid=True, tickCount=6)
        .configure_header(
            labelColor=INK, labelFontSize=12, labelLimit=190, labelAnchor="start", title=None
        )
    )
