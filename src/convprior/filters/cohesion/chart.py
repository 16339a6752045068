"""Charts of a prediction: predicted against measured ratios, and both from layer to layer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from convprior._drawing import BLUE, INK, PURPLE, QUIET, SKY, VERMILION, inline, styled
from convprior._optional import require
from convprior.errors import InputError
from convprior.filters.taps.layer import RATIO_TEXTS, ratio_name

_SIZE = 260
_MOST_NUMBERS = 12
"""Layers numbered on the axis."""
_SHAPES = ("circle", "square", "triangle-up", "diamond")


def draw_prediction(rows: Sequence[Mapping[str, Any]], ratio: str = "centre_corner") -> Any:
    """Left: a point a layer, with the line where prediction and measurement are equal.

    Right: both ratios by depth, with a line at 1, where center and corner are equally large.

    Args:
        rows: of :meth:`convprior.filters.TapPrediction.rows`.
        ratio: ``centre_corner`` or ``centre_edge``, also spelled ``center_``.

    Returns:
        A finished altair chart.

    Raises:
        InputError: no layer has such a ratio, or it is another name.
        MissingExtraError: altair is absent.
    """
    alt = require("altair", "lab")
    ratio = ratio_name(ratio)
    points = [
        {
            "layer": row["name"],
            "kernel": row["kernel_size"],
            "depth": depth,
            "predicted": row[f"predicted_{ratio}"],
            "measured": row[f"measured_{ratio}"],
        }
        for depth, row in enumerate(rows, 1)
        if row[f"predicted_{ratio}"] is not None and row[f"measured_{ratio}"] is not None
    ]
    if not points:
        raise InputError(f"no layer has a predicted {RATIO_TEXTS[ratio]}; there is nothing to draw")
    name = ratio.replace("centre_", "center / ")
    every = [1.0, *(point[key] for point in points for key in ("predicted", "measured"))]
    low, high = 0.95 * min(every), 1.05 * max(every)
    scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    sizes = list(dict.fromkeys(point["kernel"] for point in points))
    x = alt.X("predicted:Q", title=f"predicted {name}", scale=scale)
    y = alt.Y("measured:Q", title=f"measured {name}", scale=scale, axis=alt.Axis(grid=True))
    identity = (
        alt.Chart(inline([{"predicted": end, "measured": end} for end in (low, high)]))
        .mark_line(aria=False, color=INK, opacity=0.55, strokeDash=[4, 3])
        .encode(x=x, y=y)
    )
    note = (
        alt.Chart(inline([{"predicted": high, "measured": high, "text": "equal"}]))
        .mark_text(aria=False, align="right", baseline="top", dx=-14, dy=2, color=INK)
        .encode(x=x, y=y, text="text:N")
    )
    kernel = {"title": "kernel", "labelColor": INK, "titleColor": INK}
    colors, shapes = (BLUE, VERMILION, PURPLE, SKY), _SHAPES
    count = len(sizes)
    dots = (
        alt.Chart(inline(points))
        .mark_point(aria=False, filled=True, size=60, opacity=0.8)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "kernel:N",
                sort=None,
                scale=alt.Scale(domain=sizes, range=[colors[i % 4] for i in range(count)]),
                legend=alt.Legend(**kernel),
            ),
            shape=alt.Shape(
                "kernel:N",
                sort=None,
                scale=alt.Scale(domain=sizes, range=[shapes[i % 4] for i in range(count)]),
                legend=alt.Legend(**kernel),
            ),
            tooltip=["layer:N", "kernel:N", "predicted:Q", "measured:Q"],
        )
    )
    scatter = alt.layer(identity, note, dots).properties(width=_SIZE, height=_SIZE)
    return styled(
        alt.hconcat(scatter, _by_depth(alt, points, scale, name), spacing=30).resolve_scale(
            color="independent", shape="independent"
        )
    )


def _by_depth(alt: Any, points: Sequence[Mapping[str, Any]], scale: Any, name: str) -> Any:
    kinds = ["measured", "predicted"]
    long = [
        {"depth": point["depth"], "layer": point["layer"], "ratio": point[kind], "kind": kind}
        for point in points
        for kind in kinds
    ]
    last = max(point["depth"] for point in points)
    step = max(1, math.ceil(last / _MOST_NUMBERS))
    axis = alt.Axis(values=list(range(1, last + 1, step)), format="d")
    x = alt.X("depth:Q", title="layer, in the order of the network", axis=axis)
    y = alt.Y("ratio:Q", title=name, scale=scale, axis=alt.Axis(grid=True))
    color = alt.Color(
        "kind:N",
        scale=alt.Scale(domain=kinds, range=[INK, VERMILION]),
        legend=alt.Legend(title=None, labelColor=INK),
    )
    even = alt.Chart(inline([{"ratio": 1.0}])).mark_rule(color=QUIET, aria=False).encode(y=y)
    lines = alt.Chart(inline(long)).mark_line(aria=False, point=True).encode(x=x, y=y, color=color)
    return alt.layer(even, lines).properties(width=_SIZE + 60, height=_SIZE)
