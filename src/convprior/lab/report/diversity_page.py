"""Feature diversity as a page that loads nothing from anywhere, or as one picture."""

from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from convprior import __version__
from convprior._optional import require
from convprior.diagnose import LayerDiversity
from convprior.diagnose.diversity.chart import (
    by_layer,
    decile_bars,
    draw_diversity,
    variance_histogram,
)
from convprior.diagnose.diversity.conclusion import percent
from convprior.diagnose.diversity.table import HEAD, cells, p_text, side_text
from convprior.filters.taps.table import printable
from convprior.lab.report.drawing import render

if TYPE_CHECKING:
    from convprior.lab.report.diversity import InspectedDiversity


def render_page(inspected: Sequence["InspectedDiversity"]) -> str:
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
    page: str = environment.get_template("diversity.html.jinja").render(
        style=style,
        version=__version__,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        sections=[_section(one) for one in inspected],
        head=HEAD,
        percent=percent,
    )
    return page


def render_svg(inspected: Sequence["InspectedDiversity"]) -> str:
    """All networks in one SVG, one below the other.

    Raises:
        InputError: no image of a network counts.
    """
    alt = require("altair", "lab")
    charts = []
    for one in inspected:
        title = alt.TitleParams(
            printable(one.target), anchor="start", fontSize=16, offset=14, color="currentColor"
        )
        chart = draw_diversity(one.diversity)
        charts.append(chart.properties(title=title) if len(inspected) > 1 else chart)
    joined = alt.vconcat(*charts, spacing=50) if len(charts) > 1 else charts[0]
    return render(joined.resolve_scale(color="independent"))


def _section(one: "InspectedDiversity") -> dict[str, Any]:
    diversity = one.diversity
    last = diversity.layers[-1]
    return {
        "target": one.target,
        "about": one.about,
        "images": one.images,
        "diversity": diversity,
        "lead": diversity.conclusion,
        "confidence": f"{100 * diversity.settings.confidence:g} %",
        "deciles": render(decile_bars(last)) if last.deciles else "",
        "histogram": render(variance_histogram(diversity, last)) if last.deciles else "",
        "depth": render(by_layer(diversity)) if len(diversity) > 1 else "",
        "last": last,
        "side": side_text(last),
        "layers": [(layer, cells(layer)) for layer in diversity],
        "weights": _weights(last),
        "p": p_text(last.lowest.p) if last.lowest else "",
    }


def _weights(layer: LayerDiversity) -> str:
    """What Bias Loss would do, in a sentence."""
    weights = layer.weights
    if weights is None:
        return ""
    kinds = {"right": weights.on_correct, "wrong": weights.on_wrong}
    split = " and ".join(
        f"{mean:.3f} to those classified {kind}" for kind, mean in kinds.items() if mean is not None
    )
    return (
        f"In random batches of {weights.batch_size}, Bias Loss (alpha {weights.alpha:g}, beta "
        f"{weights.beta:g}) would give these images a mean weight of {weights.mean:.3f}: {split}."
    )
