"""How well predicted ratios agree with measured ones, beside predictions that know nothing."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from convprior._random import mix
from convprior.errors import InputError
from convprior.filters.taps.bootstrap import percentile_interval

_LEAST = 4
"""Layers that a correlation needs before it is reported: of three, one in six orders is right."""


@dataclass(frozen=True)
class Correlation:
    """A correlation over layers.

    Attributes:
        value: in [-1, 1].
        interval: bootstrap percentile interval over layers; None if it cannot be given.
        p: share of random pairings of the layers with at least this much correlation of either
            sign.
    """

    value: float
    interval: tuple[float, float] | None
    p: float


@dataclass(frozen=True)
class Agreement:
    """Predicted against measured ratios, over layers and in natural logarithms.

    The layers of one network are no independent sample: intervals and ``p`` describe these
    layers, they do not speak for other networks.

    Attributes:
        layers: how many were compared.
        spearman: rank correlation; None with fewer than four layers or all values equal.
        pearson: linear correlation of the logarithms, likewise.
        error: mean ``|log measured - log predicted|``.
        error_of_one: the same for the prediction "every ratio is 1".
        error_of_constant: the same for one ratio everywhere, the median of the measured ones:
            chosen in hindsight, so no constant does better.
        confidence: of the intervals.
    """

    layers: int
    spearman: Correlation | None
    pearson: Correlation | None
    error: float
    error_of_one: float
    error_of_constant: float
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.layers} layers"]
        for name, found in (("rank correlation", self.spearman), ("correlation", self.pearson)):
            if found is None:
                lines.append(f"{name}: none (fewer than {_LEAST} layers, or all equal)")
                continue
            span = ""
            if found.interval is not None:
                low, high = found.interval
                span = f" [{low:.2f}, {high:.2f}] at {self.confidence:.0%}"
            lines.append(f"{name} {found.value:.2f}{span}, p = {found.p:.3g}")
        worse = " (worse than always saying 1)" if self.error > self.error_of_one else ""
        lines.append(
            f"mean |log ratio error| {self.error:.3f}{worse}; of 'always 1' "
            f"{self.error_of_one:.3f}, "
            f"of the best constant {self.error_of_constant:.3f}"
        )
        return "\n".join(lines)


def agreement(
    predicted: Tensor,
    measured: Tensor,
    *,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Agreement:
    """Compares two sets of positive ratios, one pair a layer.

    Args:
        predicted: (layers,), > 0.
        measured: (layers,), > 0.
        confidence: of the bootstrap intervals, in (0, 1).
        draws: resampled sets of layers, and random pairings.
        seed: of both.

    Raises:
        InputError: no layers, ratios that are not positive and finite, or a confidence outside
            (0, 1).

    Source: Spearman (1904), Efron (1979), Fisher's permutation test.
    """
    if not 0.0 < confidence < 1.0 or draws < 1:
        raise InputError(f"confidence is {confidence}, draws {draws}; give (0, 1) and at least 1")
    pairs = torch.stack([predicted, measured]).to("cpu", torch.float64)
    if not pairs.numel() or not bool((torch.isfinite(pairs) & (pairs > 0)).all()):
        raise InputError(
            f"{pairs.shape[-1]} layers with a ratio > 0 are needed to compare, all of them finite; "
            "choose layers that have both center and corners"
        )
    x, y = pairs.log()
    generator = torch.Generator().manual_seed(mix(seed, len(x)))
    taken = torch.randint(len(x), (draws, len(x)), generator=generator)
    shuffled = torch.rand(draws, len(x), generator=generator).argsort(1)

    def correlation(rank: bool) -> Correlation | None:
        def both(a: Tensor, b: Tensor) -> Tensor:
            return pearson(mean_ranks(a), mean_ranks(b)) if rank else pearson(a, b)

        value = float(both(x, y))
        if len(x) < _LEAST or value != value:
            return None
        resampled = both(x[taken], y[taken])
        # A draw of one layer over and over has no correlation; with many of them, no interval.
        kept = resampled[resampled.isfinite()]
        enough = len(kept) > 0.9 * draws
        by_chance = both(x.expand(draws, -1), y[shuffled]).abs() >= abs(value) - 1e-12
        return Correlation(
            value,
            percentile_interval(kept, confidence) if enough else None,
            (1 + int(by_chance.sum())) / (1 + draws),
        )

    return Agreement(
        len(x),
        correlation(rank=True),
        correlation(rank=False),
        float((y - x).abs().mean()),
        float(y.abs().mean()),
        float((y - y.median()).abs().mean()),
        confidence,
    )


def mean_ranks(values: Tensor) -> Tensor:
    """Ranks along the last axis, from 1; equal values share the mean of theirs."""
    here, there = values[..., :, None], values[..., None, :]
    below = (there < here).sum(-1)
    same = (there == here).sum(-1)
    return below.double() + (same + 1).double() / 2


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Linear correlation along the last axis; NaN where one side is constant."""
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    spread = (x.square().sum(-1) * y.square().sum(-1)).sqrt()
    # A constant side leaves rounding of its mean, not 0.
    spread = torch.where(spread > 1e-24, spread, torch.nan)
    return ((x * y).sum(-1) / spread).clamp(-1.0, 1.0)
