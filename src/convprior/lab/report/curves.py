"""Charts of lines, one an arm: learning curves, and accuracy against a tuned value.

Up to six arms share a panel, told apart by color (the page prints the legend); more get a panel
each, with the baseline in gray behind.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convprior._drawing import QUIET, VERMILION, inline
from convprior._optional import require
from convprior.lab.report.drawing import MOST_COLORS, WIDTH, arm_colors, render, short_names
from convprior.lab.study.rows import Row

_HEIGHT, _SMALL = 230, 80
_NARROW = 5
"""Losses within this factor need no logarithm, and get more round values without it."""
_POINTS = 60
"""Points of a drawn curve; more are not told apart at this width."""


@dataclass(frozen=True)
class CurvePoint:
    """Training loss after so many examples: the mean and the range over the runs of an arm."""

    examples: int
    mean: float
    low: float
    high: float


def learning_curves(rows: Sequence[Row], cells: Path) -> dict[str, list[CurvePoint]]:
    """The training loss of each arm, from the ``log.jsonl`` of its finished cells.

    Args:
        rows: the cells of one (data, model).
        cells: the folder that holds a folder for each key.

    Returns:
        A curve for each arm of which a finished cell has one.
    """
    losses: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row.status == "finished":
            for examples, loss in _log(cells / row.key / "log.jsonl"):
                losses.setdefault(row.arm, {}).setdefault(examples, []).append(loss)
    curves = {}
    for arm, by_examples in losses.items():
        every = sorted(by_examples.items())
        step = math.ceil(len(every) / _POINTS)
        chosen = [*every[(len(every) - 1) % step :: step]]  # the last point is always among them
        curves[arm] = [
            CurvePoint(examples, math.fsum(own) / len(own), min(own), max(own))
            for examples, own in chosen
        ]
    return curves


def draw_learning_curves(
    curves: Mapping[str, Sequence[CurvePoint]], arms: Sequence[str], baseline: str
) -> str:
    """Training loss against examples seen: mean and range over runs, as SVG."""
    alt = require("altair", "lab")
    points = [
        {"arm": arm, "x": one.examples, "y": one.mean, "low": one.low, "high": one.high}
        for arm in arms
        for one in curves.get(arm, ())
    ]
    every = [one for curve in curves.values() for one in curve]
    ends = min((one.low for one in every), default=0.0), max((one.high for one in every), default=1)
    log = ends[0] > 0 and ends[1] / ends[0] > _NARROW
    scale = alt.Scale(type="log" if log else "linear", zero=False, nice=False)
    grid = alt.Axis(
        grid=True, format="~g", values=_decades(*ends) if log else alt.Undefined, tickCount=4
    )
    small = len(arms) > MOST_COLORS + 1
    seen = None if small else "training images seen"
    x = alt.X("x:Q", title=seen, axis=alt.Axis(format="~s", tickCount=3 if small else 5))
    y = alt.Y("y:Q", title=None if small else "training loss", scale=scale, axis=grid)

    color = alt.Color("color:N", scale=None)
    band = alt.Chart().mark_area(aria=False, opacity=0.16)
    line = alt.Chart().mark_line(aria=False, strokeWidth=2)
    layers = [
        band.encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q", color=color),
        line.encode(x=x, y=y, color=color),
    ]
    return render(panels(points, layers, arms, baseline))


def panels(
    points: Sequence[Mapping[str, Any]], layers: Sequence[Any], arms: Sequence[str], baseline: str
) -> Any:
    """One panel with an arm in each color, or a panel each with the baseline behind.

    Args:
        points: data of the layers; ``arm`` says whose. The layers' color is the field ``color``.
        layers: charts without data.
        arms: all arms, in order.
        baseline: the one in gray.
    """
    alt = require("altair", "lab")
    if len(arms) <= MOST_COLORS + 1:
        colors = arm_colors(arms, baseline)
        rows = [{**point, "color": colors[point["arm"]]} for point in points]
        return alt.layer(*layers, data=inline(rows)).properties(
            width=WIDTH,
            height=_HEIGHT,
            autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        )
    short = short_names(arms)
    rows = []
    for order, arm in enumerate(other for other in arms if other != baseline):
        place = {"panel": short[arm], "order": order}
        for name, color in ((baseline, QUIET), (arm, VERMILION)):
            own = [point for point in points if point["arm"] == name]
            rows += [{**point, **place, "color": color} for point in own]
    # Sorted by number: a name in a sort would become part of an expression.
    facet = alt.Facet("panel:N", title=None, sort=alt.EncodingSortField("order", op="min"))
    panel = alt.layer(*layers, data=inline(rows)).properties(width=160, height=_SMALL)
    return panel.facet(facet, columns=2)


def _decades(low: float, high: float) -> list[float]:
    """Round values of a logarithmic axis: 1, 2, 5 of each decade, or fewer if it spans many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if high / low < 30 else (1, 3) if high / low < 1000 else (1,)
    values = [factor * 10.0**power for power in range(first, last + 1) for factor in steps]
    return [value for value in values if low <= value <= high]


def _log(path: Path) -> list[tuple[int, float]]:
    """(examples, loss) of a learning curve; what cannot be read is left out."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    points = []
    for line in lines:
        try:
            entry = json.loads(line)
            examples, loss = int(entry["examples"]), float(entry["loss"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
        if math.isfinite(loss):
            points.append((examples, loss))
    return points
