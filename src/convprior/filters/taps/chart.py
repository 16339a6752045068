"""Pictures of a tap profile: a heat map a layer, and the ratios from first to last layer."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from convprior._drawing import BLUE, GREEN, INK, ORANGE, QUIET, VERMILION, inline, styled
from convprior._optional import require
from convprior.errors import InputError
from convprior.filters.taps.layer import LayerTaps, size_text
from convprior.filters.taps.table import number, printable, shortened, stride_text

if TYPE_CHECKING:
    from convprior.filters.taps.profile import TapProfile

_COLUMNS, _PANEL, _WIDTH = 6, 104, 300
_RANGES = (0.25, 0.5, 1.0)
"""Largest deviations on the color scale, in powers of two; beyond it the color stays."""
_LONGEST = 19
_RATIOS = {"centre_edge": "center/edge", "centre_corner": "center/corner"}
_GROUPS = {
    "stride 1": BLUE,
    "stride unknown": BLUE,
    "larger stride": ORANGE,
    "depthwise": GREEN,
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


def heat_maps(profile: "TapProfile") -> Any:
    """A map a layer: each tap's RMS relative to the RMS over all taps of the layer.

    One color scale for all layers, symmetric in the logarithm: white is the mean. The title names
    the layer, its kernel and stride, and center / corner (center / edge where there is no corner).
    A one-dimensional kernel is a row; of a three-dimensional one the RMS over the
    first axis is shown. Layers that are zero throughout are left out.

    Raises:
        InputError: all layers are 1x1.
    """
    alt = require("altair", "lab")
    layers = [layer for layer in _larger(profile) if bool(layer.rms.any())]
    rows = [row for at, layer in enumerate(layers) for row in _tiles(at, layer)]
    spread = sorted(abs(row["power"]) for row in rows) or [0.0]
    most = spread[int(0.95 * (len(spread) - 1))]  # one odd tap shall not pale all others
    limit = next((limit for limit in _RANGES if most <= limit), _RANGES[-1])
    legend = alt.Legend(
        title="RMS of the tap / mean of its layer",
        orient="top",
        direction="horizontal",
        gradientLength=220,
        gradientThickness=10,
        values=[-limit, 0, limit],
        labelExpr="format(pow(2, datum.value), '.2f')",
        labelColor=INK,
        titleColor=INK,
        titleFontWeight="normal",
        titleLimit=400,
        labelFontSize=12,
        titleFontSize=12,
    )
    scale = alt.Scale(domain=[-limit, 0, limit], range=[BLUE, "#f7f7f7", VERMILION], clamp=True)
    axis = {"axis": None, "scale": alt.Scale(padding=0)}
    maps = (
        alt.Chart(inline(rows))
        .mark_rect(aria=False, stroke=QUIET, strokeWidth=0.5)
        .encode(
            x=alt.X("column:O", **axis),
            y=alt.Y("row:O", **axis),
            color=alt.Color("power:Q", scale=scale, legend=legend),
        )
        .properties(width=_PANEL, height=_PANEL)
    )
    # Sorted by number, and split into lines by a fixed expression: no name becomes a part of one.
    header = alt.Header(labelExpr="split(datum.label, '\\n')", labelLimit=_PANEL + 30)
    facet = alt.Facet(
        "panel:N", title=None, header=header, sort=alt.EncodingSortField("order", op="min")
    )
    return maps.facet(facet, columns=_COLUMNS, spacing={"row": 12, "column": 24}).resolve_scale(
        x="independent", y="independent"
    )


def depth_chart(profile: "TapProfile") -> Any:
    """The ratios with their intervals, a line a layer from the first to the last; 1 is marked.

    Blue: stride 1 or unknown, orange: larger strides, green: depthwise. A gray bar marks the
    initial weights.

    Raises:
        InputError: all layers are 1x1.
    """
    alt = require("altair", "lab")
    layers = _larger(profile)
    labels = _labels(layers)
    panels: list[Any] = []
    for name in _RATIOS:
        if any(getattr(layer, name) is not None for layer in layers):
            panels.append(_ratio_panel(name, layers, labels, first=not panels))
    return alt.hconcat(*panels, spacing=24)


def _ratio_panel(name: str, layers: Sequence[LayerTaps], labels: Sequence[str], first: bool) -> Any:
    alt = require("altair", "lab")
    rows = [_mark(layer, label, name) for layer, label in zip(layers, labels, strict=True)]
    rows = [row for row in rows if row["ratio"] is not None]
    keys = ("ratio", "low", "high", "initial")
    ends = [row[key] for row in rows for key in keys if row[key] is not None]
    room = 1.05
    domain = [min(*ends, 1) / room, max(*ends, 1) * room]
    scale = alt.Scale(type="log", domain=domain, nice=False)
    before = " (gray: before training)" if any(row["initial"] for row in rows) else ""
    x = alt.X("ratio:Q", title=_RATIOS[name] + before, scale=scale, axis=_axis(*domain))
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
    one = alt.Chart(inline([{"ratio": 1}])).mark_rule(aria=False, color=INK, opacity=0.6)
    start = base.transform_filter("isValid(datum.initial)").mark_tick(
        aria=False, color=QUIET, thickness=3, size=12
    )
    span = base.transform_filter("isValid(datum.low)").mark_rule(aria=False, strokeWidth=2)
    dot = base.mark_circle(aria=False, opacity=1, size=46)
    height = 15 if len(labels) > 24 else 20
    return alt.layer(
        one.encode(x=x),
        start.encode(x=alt.X("initial:Q", scale=scale), y=y),
        span.encode(x=alt.X("low:Q", scale=scale), x2="high:Q", y=y, color=color),
        dot.encode(x=x, y=y, color=color),
    ).properties(width=_WIDTH, height=height * len(labels))


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


def _tiles(at: int, layer: LayerTaps) -> list[dict[str, Any]]:
    """One row a tap: place, and log2 of RMS over mean RMS."""
    squares = layer.rms.square()
    squares = squares / squares.mean()
    while squares.ndim > 2:
        squares = squares.mean(0)
    grid = squares.view(1, -1) if squares.ndim == 1 else squares
    stride = stride_text(layer.stride)
    size = size_text(layer.kernel_size) + (f", stride {stride}" if stride not in ("1", "?") else "")
    name = "centre_corner" if "centre_corner" in layer.intervals else "centre_edge"
    ratio = f"{_RATIOS[name]} {number(getattr(layer, name))}" if layer.intervals else ""
    title = f"{_short(at, layer)}\n{size}\n{ratio}"
    return [
        {
            "panel": title,
            "order": at,
            "row": row,
            "column": column,
            "power": max(-20.0, 0.5 * math.log2(value)) if value > 0 else -20.0,
        }
        for row, line in enumerate(grid.tolist())
        for column, value in enumerate(line)
    ]


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


def _short(at: int, layer: LayerTaps) -> str:
    """A title that fits above a map and is no other's: the end of a name says most."""
    name = printable(layer.name)
    label = name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
    return f"{at + 1}. {label}"


def _larger(profile: "TapProfile") -> list[LayerTaps]:
    layers = [layer for layer in profile if math.prod(layer.kernel_size) > 1]
    if not layers:
        raise InputError("all convolutions are 1x1: there are no taps to draw")
    return layers
