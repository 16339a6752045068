"""A heat map a layer: how large each tap is beside the mean of its layer."""

import math
from typing import TYPE_CHECKING, Any

from convprior._drawing import BLUE, INK, QUIET, VERMILION, inline
from convprior._optional import require
from convprior.filters.taps.layer import RATIO_TEXTS, LayerTaps, size_text
from convprior.filters.taps.table import larger_layers, number, printable, stride_text

if TYPE_CHECKING:
    from convprior.filters.taps.profile import TapProfile

_COLUMNS, _PANEL = 6, 104
_RANGES = (0.25, 0.5, 1.0)
"""Largest deviations on the color scale, in powers of two; beyond it the color stays."""
_LONGEST = 19
_MOST_NUMBERS = 4
"""Taps in a row up to which a number fits into each."""
_DEEPEST = 0.75
"""Opacity of the strongest color: text in the color of the page is read on it, light or dark."""


def heat_maps(profile: "TapProfile") -> Any:
    """A map a layer: each tap's RMS relative to the RMS over all taps of the layer.

    One color scale for all layers, symmetric in the logarithm: no color is the mean, so that it is
    white on a white page and black on a black one. The title names the layer, its kernel and
    stride, and center / corner (center / edge where there is no corner). Up to four taps in a row
    hold their number. A one-dimensional kernel is a row; of a three-dimensional one the RMS over
    the first axis is shown. Layers that are zero throughout are left out.

    Raises:
        InputError: all layers are 1x1.
    """
    alt = require("altair", "lab")
    layers = [layer for layer in larger_layers(profile) if bool(layer.rms.any())]
    rows = [row for at, layer in enumerate(layers) for row in _tiles(at, layer)]
    axis = {"axis": None, "scale": alt.Scale(padding=0)}
    base = alt.Chart().encode(x=alt.X("column:O", **axis), y=alt.Y("row:O", **axis))
    tiles = base.mark_rect(aria=False, stroke=QUIET, strokeWidth=0.5).encode(color=_color(rows))
    numbers = base.mark_text(aria=False, fontSize=11, color=INK).encode(text="text:N")
    # Sorted by number, and split into lines by a fixed expression: no name becomes a part of one.
    header = alt.Header(labelExpr="split(datum.label, '\\n')", labelLimit=_PANEL + 30)
    facet = alt.Facet(
        "panel:N", title=None, header=header, sort=alt.EncodingSortField("order", op="min")
    )
    return (
        alt.layer(tiles, numbers, data=inline(rows))
        .properties(width=_PANEL, height=_PANEL)
        .facet(facet, columns=_COLUMNS, spacing={"row": 12, "column": 24})
        .resolve_scale(x="independent", y="independent")
    )


def _color(rows: list[dict[str, Any]]) -> Any:
    alt = require("altair", "lab")
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
    # Each half fades within its own hue; through a gray the faint colors would be dirty.
    ends = [_faded(BLUE, _DEEPEST), _faded(BLUE, 0), _faded(VERMILION, 0)]
    scale = alt.Scale(
        domain=[-limit, -limit / 1000, limit / 1000, limit],
        range=[*ends, _faded(VERMILION, _DEEPEST)],
        clamp=True,
    )
    return alt.Color("power:Q", scale=scale, legend=legend)


def _faded(color: str, opacity: float) -> str:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"


def _tiles(at: int, layer: LayerTaps) -> list[dict[str, Any]]:
    """One row a tap: place, log2 of RMS over mean RMS, and that ratio in words."""
    squares = layer.rms.square()
    squares = squares / squares.mean()
    while squares.ndim > 2:
        squares = squares.mean(0)
    grid = squares.view(1, -1) if squares.ndim == 1 else squares
    stride = stride_text(layer.stride)
    size = size_text(layer.kernel_size) + (f", stride {stride}" if stride not in ("1", "?") else "")
    name = "centre_corner" if "centre_corner" in layer.intervals else "centre_edge"
    ratio = f"{RATIO_TEXTS[name]} {number(getattr(layer, name))}" if layer.intervals else ""
    title = f"{_short(at, layer)}\n{size}\n{ratio}"
    return [
        {
            "panel": title,
            "order": at,
            "row": row,
            "column": column,
            "power": max(-20.0, 0.5 * math.log2(value)) if value > 0 else -20.0,
            "text": number(math.sqrt(value)) if max(grid.shape) <= _MOST_NUMBERS else "",
        }
        for row, line in enumerate(grid.tolist())
        for column, value in enumerate(line)
    ]


def _short(at: int, layer: LayerTaps) -> str:
    """A title that fits above a map and is no other's: the end of a name says most."""
    name = printable(layer.name)
    label = name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
    return f"{at + 1}. {label}"
