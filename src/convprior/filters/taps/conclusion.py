"""What a tap profile shows, in one sentence."""

import math
from typing import TYPE_CHECKING

from convprior.filters.taps.layer import LayerTaps

if TYPE_CHECKING:
    from convprior.filters.taps.profile import TapProfile


def conclusion(profile: "TapProfile") -> str:
    """In how many layers the center is larger or smaller, and the mean ratio.

    A layer counts where its interval lies above or below 1. Its ratio is center / corner, or
    center / edge where it has no corner; the mean is geometric. Where initial weights are known
    their mean stands in front of an arrow, over the same layers.
    """
    layers = [layer for layer in profile if layer.intervals]
    if not layers:
        return "Every convolution is 1x1 (or 2x2), so no tap is nearer to the center than another."
    if not any(_ratio(layer) for layer in layers):
        return "No layer has a ratio: see the notes."
    outer = " or ".join(dict.fromkeys(_outer(layer) for layer in layers))
    spans = [layer.intervals[_name(layer)] for layer in layers]
    larger = sum(span is not None and span[0] > 1 for span in spans)
    smaller = sum(span is not None and span[1] < 1 for span in spans)
    means = _means(layers)
    if len(layers) == 1:
        verb = "is larger than" if larger else "is smaller than" if smaller else ""
        return f"The center {verb or 'is not shown to differ from'} the {outer} (ratio {means})."
    every = f"{len(layers)} layers"
    if not larger and not smaller:
        return (
            f"No layer's center is shown to differ from its {outer} ({every}, mean ratio {means})."
        )
    words, more = ("larger", larger) if larger else ("smaller", smaller)
    share = f"all {every}" if more == len(layers) else f"{more} of {every}"
    other = f" and smaller in {smaller}" if larger and smaller else ""
    return f"The center is {words} than the {outer} in {share}{other} (mean ratio {means})."


def _means(layers: list[LayerTaps]) -> str:
    """``1.30``, or ``0.99 -> 1.30 in training`` over the layers that have both."""
    values = [ratio for layer in layers if (ratio := _ratio(layer))]
    pairs = [
        (start, ratio)
        for layer in layers
        if layer.initial is not None
        and (start := getattr(layer.initial, _name(layer)))
        and (ratio := _ratio(layer))
    ]
    if not pairs:
        return f"{_mean(values):.2f}"
    before, after = zip(*pairs, strict=True)
    return f"{_mean(list(before)):.2f} → {_mean(list(after)):.2f} in training"


def _name(layer: LayerTaps) -> str:
    return "centre_corner" if "centre_corner" in layer.intervals else "centre_edge"


def _outer(layer: LayerTaps) -> str:
    return "corners" if "centre_corner" in layer.intervals else "ends"


def _ratio(layer: LayerTaps) -> float | None:
    value: float | None = getattr(layer, _name(layer))
    return value


def _mean(values: list[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))
