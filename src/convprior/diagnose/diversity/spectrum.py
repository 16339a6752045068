"""In how many directions feature vectors vary: their covariance, and the rank it is worth."""

from dataclasses import dataclass

import torch
from torch import Tensor

_ROUNDING = 1e-12
"""Of the length of the mean vector: deviations below it are the rounding of float64 sums."""


class StreamingCovariance:
    """The covariance of vectors that come in batches, in float64, in one pass.

    Each batch is centered on its own mean and then moved to the mean of all so far, so that no
    digits are lost where the mean is large. Vectors that are not finite do not count; nothing here
    waits for the device.

    Source: Chan, Golub and LeVeque (1979).
    """

    def __init__(self) -> None:
        self._count: Tensor | None = None

    def add(self, vectors: Tensor) -> None:
        """Takes (n, C) more."""
        rows = vectors.double()
        finite = rows.isfinite().all(1, keepdim=True)
        rows, count = rows.where(finite, 0.0), finite.sum()
        mean = rows.sum(0) / count.clamp(min=1)
        centered = (rows - mean) * finite
        scatter = centered.T @ centered
        if self._count is None:
            self._count, self._mean, self._scatter = count, mean, scatter
            return
        total = (self._count + count).clamp(min=1)
        apart = mean - self._mean
        self._scatter += scatter
        self._scatter += torch.outer(apart, apart) * (self._count * count / total)
        self._mean = self._mean + apart * (count / total)
        self._count = self._count + count

    def spectrum(self) -> Tensor:
        """Eigenvalues of the covariance (divided by n), (C,) from the smallest; empty at first."""
        if self._count is None:
            return torch.empty(0, dtype=torch.float64)
        covariance = self._scatter / self._count.clamp(min=1)
        values: Tensor = torch.linalg.eigvalsh(covariance.cpu())
        rounding = (_ROUNDING * self._mean.norm().cpu()) ** 2
        return values.where(values > rounding, 0.0)


@dataclass(frozen=True)
class Rank:
    """In how many directions vectors vary, between 1 and the smaller of C and n - 1.

    Attributes:
        effective: ``exp(H)``, H the entropy of the eigenvalues divided by their sum.
        participation: ``(sum l)^2 / sum l^2``, never above ``effective``.
    """

    effective: float
    participation: float


def rank_of(spectrum: Tensor) -> Rank | None:
    """The rank that a spectrum is worth; None where nothing varies.

    Args:
        spectrum: (C,) eigenvalues of a covariance, not negative.

    Source: Roy and Vetterli (2007) with the eigenvalues of the covariance in place of singular
    values; the participation ratio is the exponential of the Renyi entropy of order 2.
    """
    total = spectrum.sum()
    if not total > 0:
        return None
    p = spectrum / total
    return Rank(float(torch.special.entr(p).sum().exp()), float(1 / (p @ p)))
