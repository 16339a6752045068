"""A picture of a prior: its variances where the taps are, and its correlation matrix."""

from itertools import product
from textwrap import shorten
from typing import Any

from convprior._drawing import INK, inline, styled
from convprior._optional import require
from convprior.filters.prior.covariance import TapCovariance

_SIDE, _MATRIX = 34, 240  # pixels: of a tap, of the correlation matrix
_LINE = 80  # characters of the subtitle
_MOST_NUMBERS = 49  # taps whose variances are also written down


def draw(prior: TapCovariance) -> Any:
    """The chart of :meth:`convprior.filters.FilterPrior.chart`; a 3-d kernel shows its layers."""
    altair = require("altair", "lab")
    return styled(
        altair.hconcat(_variances(altair, prior), _correlations(altair, prior), spacing=30)
        .resolve_scale(color="independent")
        .properties(title=_heading(altair, prior))
    )


def _heading(altair: Any, prior: TapCovariance) -> Any:
    text = f"Filter prior, {'x'.join(map(str, prior.kernel_size))} taps"
    if prior.is_singular:
        text += f", singular: rank {prior.rank} of {prior.variance.numel()}"
    made = shorten(prior._made.replace("FilterPrior.", ""), _LINE, placeholder=" ...")
    return altair.TitleParams(
        text, subtitle=made, color=INK, subtitleColor=INK, fontSize=14, anchor="start", offset=12
    )


def _variances(altair: Any, prior: TapCovariance) -> Any:
    sizes = prior.kernel_size
    variance = prior.variance
    rows = [
        {"row": ", ".join(map(str, tap[:-1])), "column": tap[-1], "variance": float(variance[tap])}
        for tap in product(*(range(size) for size in sizes))
    ]
    most = float(variance.max())
    lines = variance.numel() // sizes[-1]
    axis = altair.Axis(labelAngle=0, grid=False)
    base = altair.Chart(inline(rows)).encode(
        x=altair.X("column:O", title="tap", axis=axis),
        y=altair.Y("row:O", title=None, sort=None, axis=axis),
    )
    scale = altair.Scale(scheme="viridis", domain=[0, most])
    cells = base.mark_rect().encode(
        color=altair.Color("variance:Q", scale=scale, legend=None),
        tooltip=["row:O", "column:O", "variance:Q"],
    )
    if variance.numel() <= _MOST_NUMBERS:
        # Viridis is dark in its lower part.
        shade = altair.condition(
            f"datum.variance > {0.6 * most}", altair.value("black"), altair.value("white")
        )
        text = base.mark_text(fontSize=11).encode(
            text=altair.Text("variance:Q", format=".3~g"), color=shade
        )
        cells = altair.layer(cells, text)
    size = {"width": _SIDE * sizes[-1], "height": _SIDE * lines}
    return cells.properties(**size, title=_title(altair, "variance"))


def _correlations(altair: Any, prior: TapCovariance) -> Any:
    rows = [
        {"first": p, "second": q, "correlation": value}
        for p, line in enumerate(prior.correlation.tolist())
        for q, value in enumerate(line)
    ]
    axis = altair.Axis(labelAngle=0, grid=False, labelOverlap=True)
    scale = altair.Scale(scheme="purpleorange", domain=[-1, 1])
    legend = altair.Legend(title=None, labelColor=INK, gradientLength=_MATRIX)
    return (
        altair.Chart(inline(rows))
        .mark_rect()
        .encode(
            x=altair.X("second:O", title="tap, row by row", axis=axis),
            y=altair.Y("first:O", title=None, axis=axis),
            color=altair.Color("correlation:Q", scale=scale, legend=legend),
            tooltip=["first:O", "second:O", "correlation:Q"],
        )
        .properties(width=_MATRIX, height=_MATRIX, title=_title(altair, "correlation"))
    )


def _title(altair: Any, text: str) -> Any:
    return altair.TitleParams(
        text, color=INK, fontSize=12, fontWeight="normal", anchor="start", offset=6
    )
