"""Pictures of a tap profile: a heat map a layer, and the ratios from first to last layer."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from convprior._drawing import INK, inline, styled
from convprior._optional import require
from convprior.filters.taps.heat_maps import heat_maps
from convprior.filters.taps.layer import RATIO_TEXTS, LayerTaps
from convprior.filters.taps.table import larger_layers, shortened

if TYPE_CHECKING:
    from convprior.filters.taps.profile import TapProfile

_WIDTH = 300
_BLUE, _ORANGE, _GREEN = "#2a8fd0", "#d97706", "#009e73"
"""At least 3:1 in contrast on white and on a dark page: thin bars need it."""
_VALUES = ("ratio", "low", "high", "initial")
_BADLY = 4
"""Times the median width of an interval, from which on its ratio gives the axis no room."""
_GROUPS = {
    "stride 1": _BLUE,
    "stride unknown": _BLUE,
    "larger stride": _ORANGE,
    "depthwise": _GREEN,
}


def tap_chart(profile: "TapProfile", *, style: bool = True) -> Any:
    """Heat maps above, ratios below.

    Args:
        profile: of a network.
        style: False leaves the chart unstyled, to be joined with others.

    Raises:
        InputError: all layers are 1x1.
        MissingExtraError: altair is not installed.
    """
    alt = require("altair", "lab")
    chart = alt.vconcat(heat_maps(profile), depth_chart(profile), spacing=36)
    return styled(chart) if style else chart


def depth_chart(profile: "TapProfile") -> Any:
    """The ratios with their intervals, a line a layer from the first to the last; 1 is marked.

    Blue: stride 1 or unknown, orange: larger strides, green: depthwise. An upright mark stands at
    the initial weights, a triangle where an interval goes on beyond the axis.

    Raises:
        InputError: all layers are 1x1.
    """
    alt = require("altair", "lab")
    layers = larger_layers(profile)
    labels = _labels(layers)
    panels: list[Any] = []
    for name in RATIO_TEXTS:
        if any(getattr(layer, name) is not None for layer in layers):
            panels.append(_ratio_panel(name, layers, labels, first=not panels))
    return alt.hconcat(*panels, spacing=24)


def _ratio_panel(name: str, layers: Sequence[LayerTaps], labels: Sequence[str], first: bool) -> Any:
    alt = require("altair", "lab")
    rows = [_mark(layer, label, name) for layer, label in zip(layers, labels, strict=True)]
    rows = [row for row in rows if row["ratio"] is not None]
    domain = _clip(rows)
    scale = alt.Scale(type="log", domain=domain, nice=False)
    notes = {
        "upright mark: before training": any(row["initial"] for row in rows),
        "triangle: the interval goes on": any(row["cut_low"] or row["cut_high"] for row in rows),
    }
    title = [RATIO_TEXTS[name], *(note for note, is_there in notes.items() if is_there)]
    x = alt.X("ratio:Q", title=title, scale=scale, axis=_axis(*domain))
    # The domain lists every layer, so that both panels have the same lines.
    y = alt.Y(
        "label:N",
        title=None,
        sort=None,
        scale=alt.Scale(domain=list(labels)),
        axis=alt.Axis(labelLimit=220) if first else alt.Axis(labels=False),
    )
    base = alt.Chart(inline(rows))
    groups = [group for group in _GROUPS if any(row["group"] == group for row in rows)]
    color = alt.Color(
        "group:N",
        scale=alt.Scale(domain=groups, range=[_GROUPS[group] for group in groups]),
        legend=alt.Legend(title=None, orient="top", labelColor=INK, labelFontSize=12)
        if len(groups) > 1
        else None,
    )
    one = alt.Chart(inline([{"ratio": 1}])).mark_rule(aria=False, color=INK, opacity=0.45)
    start = base.transform_filter("isValid(datum.initial)").mark_tick(
        aria=False, color=INK, opacity=0.75, thickness=2, size=12
    )
    span = base.transform_filter("isValid(datum.low)").mark_rule(aria=False, strokeWidth=2)
    dot = base.transform_filter("isValid(datum.ratio)").mark_circle(aria=False, opacity=1, size=46)
    cuts = [
        base.transform_filter(f"datum.cut_{end}")
        .mark_point(aria=False, shape=f"triangle-{to}", filled=True, opacity=1, size=60)
        .encode(x=alt.X(f"{end}:Q", scale=scale), y=y, color=color)
        for end, to in (("low", "left"), ("high", "right"))
        if any(row[f"cut_{end}"] for row in rows)
    ]
    height = 15 if len(labels) > 24 else 20
    return alt.layer(
        one.encode(x=x),
        span.encode(x=alt.X("low:Q", scale=scale), x2="high:Q", y=y, color=color),
        start.encode(x=alt.X("initial:Q", scale=scale), y=y),
        *cuts,
        dot.encode(x=x, y=y, color=color),
    ).properties(width=_WIDTH, height=height * len(labels))


def _clip(rows: Sequence[dict[str, Any]]) -> list[float]:
    """The ends of the axis; what goes on beyond them is cut there and marked so.

    Every ratio that is known well has its place, and beside the outermost the median half-width of
    the intervals. Intervals may take 1.5 times as much on either side, so that a wide one leaves
    the others at least a quarter of the axis. A ratio beyond it is known badly, and not drawn.
    """
    widths = sorted(width for row in rows if (width := _half_width(row)) < math.inf)
    beside = widths[len(widths) // 2] if widths else 0.0
    known = [row for row in rows if _half_width(row) <= max(_BADLY * beside, 0.2)] or rows
    logs = [math.log(row[key]) for row in known for key in ("ratio", "initial") if row[key]]
    low, high = min(*logs, 0.0) - beside, max(*logs, 0.0) + beside
    more = 1.5 * max(high - low, 0.1)
    lowest, highest = math.exp(low - more), math.exp(high + more)
    for row in rows:
        values = [row[key] for key in _VALUES if row[key] is not None]
        row.update(cut_low=min(values) < lowest, cut_high=max(values) > highest)
        for key in ("ratio", "initial"):
            row[key] = row[key] if row[key] and lowest <= row[key] <= highest else None
        row["low"] = lowest if row["cut_low"] else row["low"]
        row["high"] = highest if row["cut_high"] else row["high"]
    ends = [row[key] for row in rows for key in _VALUES if row[key] is not None]
    room = 1.05
    return [min(*ends, 1) / room, max(*ends, 1) * room]


def _half_width(row: dict[str, Any]) -> float:
    """Of the interval, in logarithms; 0 without one."""
    if row["low"] is None:
        return 0.0
    return math.log(row["high"] / row["low"]) / 2 if row["low"] > 0 else math.inf


def _axis(low: float, high: float) -> Any:
    """A logarithmic axis with a few round values."""
    steps = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    step = next((step for step in steps if (high - low) / step <= 6), None)
    if step is None:
        values = [2.0**power for power in range(math.ceil(math.log2(low)), 12) if 2.0**power < high]
    else:
        values = [
            round(step * at, 6) for at in range(math.ceil(low / step), int(high / step) + 1) if at
        ]
    return require("altair", "lab").Axis(values=values, format="~g")


def _mark(layer: LayerTaps, label: str, name: str) -> dict[str, Any]:
    low, high = layer.intervals.get(name) or (None, None)
    group = "stride 1"
    if layer.kind.endswith("depthwise"):
        group = "depthwise"
    elif layer.stride is None:
        group = "stride unknown"
    elif max(layer.stride) > 1:
        group = "larger stride"
    return {
        "label": label,
        "ratio": getattr(layer, name),
        "low": low,
        "high": high,
        "initial": None if layer.initial is None else getattr(layer.initial, name),
        "group": group,
    }


def _labels(layers: Sequence[LayerTaps]) -> list[str]:
    """A different label for each layer."""
    labels: list[str] = []
    for layer in layers:
        label = shortened(layer.name, 32)
        labels.append(label if label not in labels else f"{label} ({len(labels) + 1})")
    return labels
