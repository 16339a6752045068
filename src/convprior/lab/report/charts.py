"""Charts of the results: paired differences, and the accuracy of every cell."""

from collections.abc import Sequence
from typing import Any

from convprior._drawing import INK, QUIET, inline
from convprior._optional import require
from convprior.lab.report.drawing import VERDICT_COLORS, WIDTH, render, short_names
from convprior.lab.study.comparison import Comparison, Summary

_DOTS, _MEAN = 0.5, 0.85
"""Share of an arm's band that the lines of dots take, and where its mean lies."""
_ROW, _ROWS = 46, 600
"""Pixels of one arm, and of all of them where that leaves enough for each."""


def differences(comparisons: Sequence[Comparison]) -> str:
    """Paired differences of the arms on one (data, model), as SVG.

    One dot a pair; the pairs of one split lie on one line, so that a spread between splits is
    seen. Below them the mean with its 95 % interval, colored by the verdict; a line at zero.
    """
    alt = require("altair", "lab")
    arms = [one.arm for one in comparisons]
    pairs = [
        {"arm": one.arm, "at": at, "x": difference}
        for one in comparisons
        for at, (*_, difference) in zip(_lines(one.differences), one.differences, strict=True)
    ]
    means = [
        {
            "arm": one.arm,
            "x": one.mean,
            "low": one.low,
            "high": one.high,
            "color": VERDICT_COLORS[one.verdict],
        }
        for one in comparisons
    ]
    scale = _scale([0.0, *_ends(pairs), *_ends(means)])
    x = alt.X("x:Q", title="difference to the baseline in points", scale=scale)
    zero = alt.Chart(inline([{"x": 0}])).mark_rule(aria=False, color=INK, opacity=0.55)
    return render(_by_arm(arms, x, pairs, means, [zero.encode(x=x)]))


def accuracies(summaries: Sequence[Summary], baseline: str) -> str:
    """Accuracy of every finished cell on one (data, model), by arm, with the means, as SVG.

    A dashed line marks the mean of the baseline.
    """
    alt = require("altair", "lab")
    arms = [one.arm for one in summaries]
    cells = [
        {"arm": one.arm, "at": at, "x": value}
        for one in summaries
        for at, (*_, value) in zip(_lines(one.values), one.values, strict=True)
    ]
    means = [
        {"arm": one.arm, "x": one.mean, "low": one.low, "high": one.high, "color": INK}
        for one in summaries
    ]
    metric = summaries[0].metric.replace("_", " ")
    x = alt.X("x:Q", title=f"{metric} in %", scale=_scale([*_ends(cells), *_ends(means)]))
    lines = [{"x": one.mean} for one in summaries if one.arm == baseline and one.n]
    dashed = alt.Chart(inline(lines)).mark_rule(aria=False, color=INK, opacity=0.55)
    return render(
        _by_arm(arms, x, cells, means, [dashed.encode(x=x, strokeDash=alt.value([4, 3]))])
    )


def _by_arm(
    arms: list[str],
    x: Any,
    dots: list[dict[str, Any]],
    means: list[dict[str, Any]],
    below: list[Any],
) -> Any:
    """One line an arm: dots, and on them a mean with an interval."""
    alt = require("altair", "lab")
    row = max(24, min(_ROW, _ROWS // max(1, len(arms))))
    # The order of the domain is that of the study; without sort no name enters an expression.
    short = short_names(arms)
    y = alt.Y("arm:N", title=None, sort=None, scale=alt.Scale(domain=list(short.values())))
    dots = [{**dot, "arm": short[dot["arm"]]} for dot in dots]
    offset = alt.YOffset("at:Q", scale=alt.Scale(domain=[0, 1]))
    middle = alt.YOffsetDatum(_MEAN, scale=alt.Scale(domain=[0, 1]))
    color = alt.Color("color:N", scale=None)
    crowded = len(dots) > 25 * max(1, len(arms))
    points = (
        alt.Chart(inline(dots))
        .mark_circle(aria=False, color=QUIET, opacity=0.45 if crowded else 0.7, clip=False)
        .encode(x=x, y=y, yOffset=offset, size=alt.value(16 if crowded else 30))
    )
    known = [{**mean, "arm": short[mean["arm"]]} for mean in means if mean["x"] is not None]
    spans = [mean for mean in known if mean["low"] is not None]
    interval = (
        alt.Chart(inline(spans))
        .mark_rule(aria=False, strokeWidth=2.5, strokeCap="round")
        .encode(x=alt.X("low:Q"), x2="high:Q", y=y, yOffset=middle, color=color)
    )
    mean = (
        alt.Chart(inline(known))
        .mark_point(aria=False, shape="diamond", filled=True, opacity=1, size=85)
        .encode(x=x, y=y, yOffset=middle, color=color)
    )
    return alt.layer(*below, points, interval, mean).properties(
        width=WIDTH,
        height=row * max(1, len(arms)),
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )


def _ends(marks: list[dict[str, Any]]) -> list[float]:
    """All positions along x that marks take."""
    keys = ("x", "low", "high")
    return [mark[key] for mark in marks for key in keys if mark.get(key) is not None]


def _scale(values: list[float]) -> Any:
    """An axis that holds all values, with room for a dot at both ends."""
    room = 0.04 * (max(values) - min(values)) or 0.5
    domain = [min(values) - room, max(values) + room]
    return require("altair", "lab").Scale(domain=domain, nice=False, zero=False)


def _lines(cells: Sequence[tuple[int, int, float]]) -> list[float]:
    """Where each (split, seed, value) lies across the band of its arm, from 0 to 1.

    A line for each split; with one split a line for each seed, so that dots do not hide others.
    """
    index = 0 if len({split for split, *_ in cells}) > 1 else 1
    every = sorted({cell[index] for cell in cells})
    step = _DOTS / max(1, len(every) - 1)
    return [round(0.1 + step * every.index(cell[index]), 3) for cell in cells]
