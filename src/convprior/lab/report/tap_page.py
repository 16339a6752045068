"""Tap profiles as a page that loads nothing from anywhere, or as one picture."""

import math
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from convprior import __version__
from convprior._optional import require
from convprior.errors import InputError
from convprior.filters import LayerTaps
from convprior.filters.taps.chart import depth_chart, tap_chart
from convprior.filters.taps.conclusion import conclusion
from convprior.filters.taps.heat_maps import heat_maps
from convprior.filters.taps.layer import size_text
from convprior.filters.taps.table import number, printable, stride_text, with_interval
from convprior.lab.report.drawing import render
from convprior.local.learned.chart import draw_maps

if TYPE_CHECKING:
    from convprior.lab.report.local_layers import LocalLayers
    from convprior.lab.report.taps import Inspected

_MEASURES = ("distance", "effective_rank", "basis_spread", "spatial_bias")
_GROUPS = {"layers": "", "kind": "", "kernel": "", "stride": "stride ", "depth": "depth: "}


def render_page(inspected: Sequence["Inspected"]) -> str:
    """A page with a section for each network; everything but our charts and style is escaped."""
    jinja2 = require("jinja2", "lab")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("convprior.lab.report", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (files("convprior.lab.report") / "template" / "style.css").read_text()
    page: str = environment.get_template("taps.html.jinja").render(
        style=style,
        version=__version__,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        sections=[_section(one) for one in inspected],
    )
    return page


def render_svg(inspected: Sequence["Inspected"]) -> str:
    """All networks in one SVG, one below the other.

    Raises:
        InputError: a network has 1x1 convolutions and no local layer.
    """
    alt = require("altair", "lab")
    charts = []
    for one in inspected:
        chart = _chart(one)
        title = alt.TitleParams(
            printable(one.target), anchor="start", fontSize=16, offset=14, color="currentColor"
        )
        charts.append(chart.properties(title=title) if len(inspected) > 1 else chart)
    joined = alt.vconcat(*charts, spacing=50) if len(charts) > 1 else charts[0]
    return render(joined.resolve_scale(color="independent"))


def _chart(one: "Inspected") -> Any:
    """Taps, and below them the maps of local layers."""
    if one.local is None:
        return tap_chart(one.profile, style=False)
    maps = draw_maps(one.local.maps)
    if all(math.prod(layer.kernel_size) == 1 for layer in one.profile):
        return maps
    alt = require("altair", "lab")
    both = alt.vconcat(tap_chart(one.profile, style=False), maps, spacing=50)
    return both.resolve_scale(color="independent")


def _section(one: "Inspected") -> dict[str, Any]:
    profile = one.profile
    shown = [layer for layer in profile if layer.intervals]
    groups = profile.summary()
    sizes = [group["group"] for group in groups]
    try:
        maps, depth = render(heat_maps(profile)), render(depth_chart(profile)) if shown else ""
    except InputError:  # all layers are 1x1: the page says so
        maps, depth = "", ""
    return {
        "target": one.target,
        "about": one.about,
        "lead": conclusion(profile) if len(profile) else "",
        "local": _local(one.local) if one.local else None,
        "maps": maps,
        "depth": depth,
        "layers": [_row(layer) for layer in shown],
        "left_out": len(profile) - len(shown),
        "groups": [
            {**group, "title": _GROUPS[group["group"]] + group["name"]}
            for group in groups
            if group["group"] == "layers" or sizes.count(group["group"]) > 1
        ],
        "started": any(layer.initial is not None for layer in shown),
        "confidence": f"{100 * profile.confidence:g} %",
        "number": number,
    }


def _local(local: "LocalLayers") -> dict[str, Any]:
    return {
        "lead": local.conclusion,
        "maps": render(draw_maps(local.maps)),
        "layers": [
            {**row, "name": printable(row["name"])} | {k: _short(row[k]) for k in _MEASURES}
            for row in local.report.rows()
        ],
    }


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _row(layer: LayerTaps) -> dict[str, Any]:
    return {
        "name": printable(layer.name),
        "kind": layer.kind,
        "kernel": size_text(layer.kernel_size),
        "stride": stride_text(layer.stride),
        "filters": layer.filters,
        "edge": with_interval(layer, "centre_edge"),
        "corner": with_interval(layer, "centre_corner"),
        "initial": layer.initial,
        "share": layer.centre_share,
        "uniform": layer.uniform_share,
        "rank": layer.spearman,
        "note": layer.note,
    }
