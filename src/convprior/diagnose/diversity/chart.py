"""Pictures of feature diversity: accuracy by decile, variances of right and wrong, depth."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from convprior._drawing import BLUE, INK, VERMILION, inline
from convprior._optional import require
from convprior.diagnose.diversity.layer import LayerDiversity
from convprior.diagnose.diversity.table import side_text
from convprior.errors import InputError
from convprior.filters.taps.table import shortened

if TYPE_CHECKING:
    from convprior.diagnose.diversity.result import FeatureDiversity

_WIDTH, _HEIGHT = 340, 220
_NEAR = 7
"""Points of accuracy below which the names of two lines need room."""
_BINS = (10, 40)
"""Fewest and most of the histogram: about the root of the number of answers of the rarer kind."""
_TAIL = 0.995
"""Quantile of the variances where the histogram ends; its last bin holds the rest."""
_COLORS = {"right": BLUE, "wrong": VERMILION}


def draw_diversity(diversity: "FeatureDiversity") -> Any:
    """The panels of the last layer and, with several, a line for each; not yet styled."""
    alt = require("altair", "lab")
    last = diversity.layers[-1]
    if not last.deciles:
        raise InputError(f"no image of layer {last.name!r} counts: {last.note}; nothing to draw")
    panels = alt.hconcat(
        decile_bars(last), variance_histogram(diversity, last), spacing=44
    ).resolve_scale(color="independent")
    if len(diversity) == 1:
        return panels
    both = alt.vconcat(panels, by_layer(diversity), spacing=36)
    return both.resolve_scale(color="independent")


def decile_bars(layer: LayerDiversity) -> Any:
    """Accuracy by decile with its intervals; lines at the accuracy of all images and at chance."""
    alt = require("altair", "lab")
    rows = [
        {"tenth": g.number, "accuracy": 100 * g.accuracy, "low": 100 * g.low, "high": 100 * g.high}
        for g in layer.deciles
    ]
    scale = alt.Scale(domain=[0, 100], nice=False)
    axis = alt.Axis(grid=True, values=[0, 25, 50, 75, 100])
    x = alt.X(
        "tenth:O",
        title="tenth of the images, least variance first",
        scale=alt.Scale(domain=list(range(1, 11))),
        axis=alt.Axis(grid=False, labelAngle=0),
    )

    def y(name: str) -> Any:
        return alt.Y(f"{name}:Q", title="accuracy, %", scale=scale, axis=axis)

    base = alt.Chart(inline(rows)).encode(x=x)
    bars = base.mark_bar(aria=False, color=BLUE, opacity=0.75).encode(y=y("accuracy"))
    spans = base.mark_rule(aria=False, color=INK, strokeWidth=1.5).encode(y=y("low"), y2="high:Q")
    levels = {"all images": 100 * (layer.accuracy or 0.0), "chance": 100 * layer.chance}
    near = abs(levels["all images"] - levels["chance"]) < _NEAR
    upper = max(levels, key=lambda text: levels[text])
    lines = []
    for text, level in levels.items():
        line = alt.Chart(inline([{"level": level, "text": text}]))
        aside = (-6 if text == upper else 6) if near else 0
        lines += [
            line.mark_rule(aria=False, color=INK, opacity=0.7, strokeDash=[4, 3]).encode(
                y=y("level")
            ),
            line.mark_text(
                aria=False, align="left", baseline="middle", dx=5, dy=aside, color=INK, fontSize=12
            ).encode(y=y("level"), x=alt.value(_WIDTH), text="text:N"),
        ]
    return alt.layer(bars, spans, *lines).properties(width=_WIDTH, height=_HEIGHT)


def variance_histogram(diversity: "FeatureDiversity", layer: LayerDiversity) -> Any:
    """The variances of images classified right and of those classified wrong, as shares of each."""
    alt = require("altair", "lab")
    counted = layer.variance.isfinite() & diversity.cross_entropy.isfinite()
    variance, correct = layer.variance[counted].double(), diversity.correct[counted]
    ordered = variance.sort().values
    low, high = float(ordered[0]), float(ordered[math.ceil(_TAIL * (len(ordered) - 1))])
    rarer = min(n for n in (int(correct.sum()), int((~correct).sum()), len(correct)) if n)
    bins = min(max(_BINS[0], math.isqrt(rarer)), _BINS[1])
    step = (high - low) / bins or max(abs(low), 1.0) / bins
    rows = [
        row
        for answer, inside in (("right", correct), ("wrong", ~correct))
        for row in _shares(variance[inside], low, step, bins, answer)
    ]
    kinds = [kind for kind in _COLORS if any(row["answer"] == kind for row in rows)]
    color = alt.Color(
        "answer:N",
        scale=alt.Scale(domain=kinds, range=[_COLORS[kind] for kind in kinds]),
        legend=alt.Legend(title=None, orient="top", labelColor=INK, labelFontSize=12),
    )
    x = alt.X(
        "variance:Q",
        title="feature variance of an image",
        scale=alt.Scale(domain=[low, low + bins * step], nice=False, zero=False),
        axis=alt.Axis(grid=False, format="~g"),
    )
    y = alt.Y(
        "share:Q", title="% of these answers", stack=None, axis=alt.Axis(grid=True, tickCount=5)
    )
    base = alt.Chart(inline(rows)).encode(x=x, y=y, color=color)
    areas = base.mark_area(aria=False, interpolate="step-after", opacity=0.3)
    lines = base.mark_line(aria=False, interpolate="step-after", strokeWidth=1.5)
    return alt.layer(areas, lines).properties(width=_WIDTH, height=_HEIGHT)


def by_layer(diversity: "FeatureDiversity") -> Any:
    """AUROC with its interval, and effective rank, a line a layer from the first to the last."""
    alt = require("altair", "lab")
    rows = []
    for at, layer in enumerate(diversity, 1):
        area, rank = layer.auroc, layer.rank
        rows.append(
            {
                "label": f"{at}. {shortened(side_text(layer), 32)}",
                "area": None if area is None else area.value,
                "low": None if area is None else area.low,
                "high": None if area is None else area.high,
                "rank": None if rank is None else rank.effective,
            }
        )
    names = [row["label"] for row in rows]

    def y(labels: bool) -> Any:
        axis = alt.Axis(labelLimit=220) if labels else alt.Axis(labels=False)
        return alt.Y("label:N", title=None, sort=None, scale=alt.Scale(domain=names), axis=axis)

    ends = [
        end
        for area in (layer.auroc for layer in diversity)
        if area is not None
        for end in (area.value, area.low, area.high)
        if end is not None
    ]
    scale = alt.Scale(domain=[min([0.45, *ends]), max([0.55, *ends])], nice=True, zero=False)
    title = "AUROC of variance for right answers"
    x = alt.X("area:Q", title=title, scale=scale)
    base = alt.Chart(inline(rows)).encode(y=y(labels=True))
    middle = alt.Chart(inline([{"area": 0.5}])).mark_rule(aria=False, color=INK, opacity=0.45)
    spans = base.transform_filter("isValid(datum.low)").mark_rule(
        aria=False, color=BLUE, strokeWidth=2
    )
    dots = base.transform_filter("isValid(datum.area)").mark_circle(
        aria=False, color=BLUE, opacity=1, size=46
    )
    areas = alt.layer(
        middle.encode(x=x),
        spans.encode(x=alt.X("low:Q", scale=scale, title=title), x2="high:Q"),
        dots.encode(x=x),
    )
    ranks = (
        alt.Chart(inline(rows))
        .transform_filter("isValid(datum.rank)")
        .mark_bar(aria=False, color=BLUE, opacity=0.75, height={"band": 0.6})
        .encode(x=alt.X("rank:Q", title="effective rank of the features"), y=y(labels=False))
    )
    height = (15 if len(rows) > 24 else 20) * len(rows)
    size = {"width": 260, "height": height}
    return alt.hconcat(areas.properties(**size), ranks.properties(**size), spacing=24)


def _shares(
    variance: Tensor, low: float, step: float, bins: int, answer: str
) -> list[dict[str, Any]]:
    """Shares in percent at the left end of each bin, and once more at the right end."""
    if not len(variance):
        return []
    place = ((variance - low) / step).long().clamp(0, bins - 1)
    shares = (100 * torch.bincount(place, minlength=bins).double() / len(variance)).tolist()
    return [
        {"variance": low + at * step, "share": share, "answer": answer}
        for at, share in enumerate([*shares, shares[-1]])
    ]
