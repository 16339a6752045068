"""What order alone says: rank correlation, and how well a number tells two groups apart."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval.

    Attributes:
        value: the number.
        low: lower end of the interval; None where it is not defined.
        high: upper end likewise.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        ends = () if self.low is None or self.high is None else (self.low, self.high)
        value, *span = (f"{number:z.2f}" for number in (self.value, *ends))
        return f"{value} [{', '.join(span)}]" if span else value


def mid_ranks(values: Tensor) -> Tensor:
    """Ranks 1 to N in float64; equal values share the mean of theirs.

    Args:
        values: (N,), not NaN.
    """
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    middle: Tensor = counts.cumsum(0).double() - (counts - 1) / 2
    return middle[place]


def spearman(x: Tensor, y: Tensor, confidence: float = 0.95) -> Estimate | None:
    """Spearman's rank correlation, with mean ranks for ties.

    The interval is Fisher's, ``tanh(atanh(r) +- z sqrt((1 + r^2 / 2) / (N - 3)))``; it needs N > 3
    and ``|r| < 1``.

    Args:
        x: (N,), not NaN.
        y: (N,) likewise.
        confidence: of the interval, in (0, 1).

    Returns:
        The correlation, or None where all ``x`` or all ``y`` are equal.

    Source: Spearman (1904); the standard error is that of Bonett and Wright (2000).
    """
    a, b = (ranks - ranks.mean() for ranks in (mid_ranks(x), mid_ranks(y)))
    spread = float((a @ a) * (b @ b)) ** 0.5 if len(x) else 0.0
    if not spread:
        return None
    r = max(-1.0, min(1.0, float(a @ b) / spread))
    if len(x) <= 3 or abs(r) > 1 - 1e-12:
        return Estimate(r)
    half = _z(confidence) * math.sqrt((1 + r * r / 2) / (len(x) - 3))
    return Estimate(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half))


def auroc(values: Tensor, positive: Tensor, confidence: float = 0.95) -> Estimate | None:
    r"""Area under the ROC curve: how often a positive one has the larger value.

    ``P(v+ > v-) + P(v+ = v-) / 2`` over all pairs of a positive and a negative one; 1/2 if the
    values say nothing. The interval takes DeLong's variance to the scale of the logit, where it
    stays in (0, 1). Where one kind lies wholly above the other, that variance is 0, and the
    interval holds the areas ``a`` that a score test with correction for continuity does not refuse,
    ``|area - a| - 1 / (2 m n) <= z sd(a)`` for m positive and n negative ones. No interval with a
    single one of either kind.

    Args:
        values: (N,), not NaN.
        positive: (N,) bool.
        confidence: of the interval, in (0, 1).

    Returns:
        The area, or None where all are positive or none is.

    Source: DeLong, DeLong and Clarke-Pearson (1988), computed from ranks as by Sun and Xu (2014);
    ``sd(a)`` is that of Newcombe (2006), method 5, at 1/2 the one of the Mann-Whitney test.
    """
    few, many = values[positive], values[~positive]
    if not len(few) or not len(many):
        return None
    ranks = mid_ranks(values)
    # Of each positive one the share of negatives below it, of each negative one of positives above.
    above = (ranks[positive] - mid_ranks(few)) / len(many)
    below = 1 - (ranks[~positive] - mid_ranks(many)) / len(few)
    area = float(above.mean())
    if min(len(few), len(many)) < 2:
        return Estimate(area)
    if area in (0.0, 1.0):
        far = _far_end(len(few), len(many), _z(confidence))
        return Estimate(area, far, 1.0) if area else Estimate(area, 0.0, 1 - far)
    variance = float(above.var() / len(few) + below.var() / len(many))
    logit = math.log(area / (1 - area))
    half = _z(confidence) * math.sqrt(variance) / (area * (1 - area))
    return Estimate(area, _logistic(logit - half), _logistic(logit + half))


def _far_end(m: int, n: int, z: float) -> float:
    """Smallest area that a score test does not refuse where all m lie above all n."""
    low, high = 0.0, 1.0
    for _ in range(60):
        a = (low + high) / 2
        pairs = (1 - a) / (2 - a) + a / (1 + a)
        variance = a * (1 - a) / (m * n) * (1 + ((m + n) / 2 - 1) * pairs)
        refused = 1 - a - 1 / (2 * m * n) > z * math.sqrt(variance)
        low, high = (a, high) if refused else (low, a)
    return low


def _logistic(x: float) -> float:
    return (1 + math.tanh(x / 2)) / 2  # does not overflow


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)
