"""What tuning tried and chose, as a chart for each tuned key."""

from collections.abc import Sequence
from typing import Any

from convprior._optional import require
from convprior.lab.report.curves import panels
from convprior.lab.report.drawing import MOST_COLORS, render
from convprior.lab.study.tune import Tuning

_ORDINAL = 10
"""Up to so many different values each gets a place of its own, in order; more get an axis."""


def draw_tuning(tunings: Sequence[Tuning], key: str, arms: Sequence[str], baseline: str) -> str:
    """Validation accuracy against one tuned key on one (data, model), as SVG.

    A dot a trial, the chosen one ringed; a line joins the best accuracy at each value when these
    are few, as in a grid. A trial with a diverged run has no accuracy worth a place and is left
    out; if none remains, the result is empty.
    """
    alt = require("altair", "lab")
    points = [
        {
            "arm": tuning.slot.arm,
            "x": trial.values[key],
            "y": 100 * trial.accuracy,
            "chosen": trial.values == tuning.values,
        }
        for tuning in tunings
        for trial in tuning.trials
        if key in trial.values and trial.loss is not None
    ]
    if not points:
        return ""
    tried = dict.fromkeys(point["x"] for point in points)
    # Numbers in their order, then what is no number in the order of the study.
    values = [*sorted(filter(_is_number, tried)), *(v for v in tried if not _is_number(v))]
    ordinal = len(values) <= _ORDINAL or not all(map(_is_number, values))
    small = len(arms) > MOST_COLORS + 1
    title = None if small else key
    if ordinal:
        points = [{**point, "x": label(point["x"])} for point in points]
        domain = list(dict.fromkeys(map(label, values)))
        x = alt.X("x:O", title=title, sort=None, scale=alt.Scale(domain=domain, padding=0.4))
        x = x.axis(labelAngle=0, labelOverlap="greedy")
    else:
        log = min(values) > 0 and max(values) / min(values) >= 20
        span = alt.Scale(type="log" if log else "linear", zero=False)
        x = alt.X("x:Q", title=title, scale=span, axis=alt.Axis(format="~g", tickCount=4))
    scale = alt.Scale(zero=False, nice=True)
    title = None if small else "validation accuracy in %"
    y = alt.Y("y:Q", title=title, scale=scale, axis=alt.Axis(grid=True, tickCount=4))

    color = alt.Color("color:N", scale=None)
    if ordinal:
        best: dict[tuple[str, str], float] = {}
        for point in points:
            at = point["arm"], point["x"]
            best[at] = max(point["y"], best.get(at, 0.0))
        points += [{"arm": arm, "x": value, "best": y} for (arm, value), y in best.items()]
    line = alt.Chart().mark_line(aria=False, strokeWidth=1.5, opacity=0.8)
    dot = alt.Chart().mark_circle(aria=False, size=28, opacity=0.9)
    ring = alt.Chart().mark_point(aria=False, size=150, strokeWidth=2, filled=False, opacity=1)
    layers = [
        line.transform_filter("isValid(datum.best)").encode(
            x=x, y=alt.Y("best:Q", scale=scale), color=color
        ),
        dot.transform_filter("isValid(datum.y)").encode(x=x, y=y, color=color),
        ring.transform_filter("datum.chosen").encode(x=x, y=y, color=color),
    ]
    return render(panels(points, layers if ordinal else layers[1:], arms, baseline))


def label(value: Any) -> str:
    """A tuned value as text, numbers without trailing digits."""
    return f"{value:g}" if _is_number(value) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
