"""How the charts of all rooms look, on white and on black.

Text and axes use ``currentColor``, so a chart follows its page into dark mode; the other colors
are those of Okabe and Ito (2008), told apart with every common form of color blindness, in shades
that are seen on white and on black.
"""

from collections.abc import Sequence
from typing import Any

from convprior._optional import require

INK = "currentColor"
QUIET = "#8a8f98"
BLUE, VERMILION, GREEN = "#0072b2", "#d55e00", "#009e73"
PURPLE, ORANGE, SKY = "#cc79a7", "#e69f00", "#56b4e9"


def inline(values: Sequence[dict[str, Any]]) -> Any:
    """Rows as the data of a chart, without pandas."""
    return require("altair", "lab").InlineData(values=list(values))


def styled(chart: Any) -> Any:
    """The finished chart in this style. Style last: a styled chart cannot be part of another."""
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
