"""The charts of a report: names and colors of arms, and SVG that sits inside a page.

Several charts share one page: nothing gets an ``id`` but the gradients of legends, which the
renderer numbers through a process.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

from convprior._drawing import BLUE, GREEN, ORANGE, PURPLE, QUIET, SKY, VERMILION, styled
from convprior._optional import require
from convprior.lab.study.tables import printable

VERDICT_COLORS = {"helps": BLUE, "hurts": VERMILION, "not shown": QUIET}

WIDTH = 440
"""Of every chart in pixels; the page shrinks it where there is less room."""
MOST_COLORS = 6
"""Arms that fit into one panel of lines; more get a panel each."""

_LONGEST, _HEAD, _TAIL = 24, 13, 10
_ARMS = (VERMILION, BLUE, GREEN, PURPLE, ORANGE, SKY)


def arm_colors(arms: Sequence[str], baseline: str) -> dict[str, str]:
    """A color for each arm, gray for the baseline; the cycle repeats after six."""
    return {baseline: QUIET, **series_colors([arm for arm in arms if arm != baseline])}


def series_colors(names: Sequence[str]) -> dict[str, str]:
    """A color for each name; the cycle repeats after six."""
    return {name: _ARMS[i % len(_ARMS)] for i, name in enumerate(names)}


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names that fit beside a chart: long ones lose their middle, and stay different.

    A control character, which XML forbids, would end the process inside the renderer.
    """
    short: dict[str, str] = {}
    for name in names:
        text = printable(name)
        label = text if len(text) <= _LONGEST else f"{text[:_HEAD]}…{text[-_TAIL:]}"
        if label in short.values():
            label = f"{text[:_HEAD]}… ({len(short) + 1})"
        short[name] = label
    return short


def render(chart: Any) -> str:
    """A chart as an SVG element with a viewBox; every name in it is escaped by the renderer."""
    require("vl_convert", "lab")
    buffer = io.StringIO()
    styled(chart).save(buffer, format="svg")
    # The roles describe a chart that its caption and tables say in words already.
    svg = re.sub(r' (?:role|aria-[a-z]+|pointer-events)="[^"<>]*"', "", buffer.getvalue())
    return svg[svg.index("<svg") :]
