"""In how many directions feature vectors vary: their covariance, and the rank it is worth."""

from dataclasses import dataclass

import torch
from torch import Tensor

_ROUNDING = 1e-12
"""Of the length of the mean vector: deviations below it are the rounding of float64 sums."""
WIDEST = 2048
"""Most vectors and numbers of one whose spectrum is computed: some seconds, 32 MiB."""


class StreamingCovariance:
    """The spectrum of the covariance of vectors that come in batches, in float64, in one pass.

    As long as there are no more vectors than numbers in one, the vectors are kept, and their Gram
    matrix has the same eigenvalues but zeros at less work. With more, a covariance is kept: each
    batch is centered on its own mean and then moved to the mean of all so far, so that no digits
    are lost where the mean is large. Vectors that are not finite do not count; nothing waits for
    the device before :meth:`spectrum`.

    Vectors of more than ``WIDEST`` numbers count up to the first ``WIDEST`` of them; ``skipped``
    counts the others.

    Source: Chan, Golub and LeVeque (1979).
    """

    def __init__(self) -> None:
        self.skipped = 0
        self._rows: list[Tensor] = []
        self._held = 0
        self._count: Tensor | None = None

    def add(self, vectors: Tensor) -> None:
        """Takes (n, C) more."""
        width = vectors.shape[1]
        if width > WIDEST:
            taken = vectors[: WIDEST - self._held]
            self.skipped += len(vectors) - len(taken)
            vectors = taken
        if self._count is None and self._held + len(vectors) <= width:
            self._rows.append(vectors.clone())  # not a view of a feature map
            self._held += len(vectors)
            return
        for rows in self._rows:
            self._fold(rows)
        self._rows.clear()
        self._fold(vectors)

    def _fold(self, vectors: Tensor) -> None:
        rows = vectors.double()
        finite = rows.isfinite().all(1, keepdim=True)
        # In float64: whole numbers of tensors are divided in float32.
        rows, count = rows.where(finite, 0.0), finite.sum(dtype=torch.float64)
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
        if self._rows:
            return self._of_gram(torch.cat(self._rows).cpu())
        if self._count is None:
            return torch.empty(0, dtype=torch.float64)
        covariance = self._scatter / self._count.clamp(min=1)
        return _cleaned(torch.linalg.eigvalsh(covariance.cpu()), self._mean.cpu())

    @staticmethod
    def _of_gram(vectors: Tensor) -> Tensor:
        rows = vectors[vectors.isfinite().all(1)].double()
        found = rows.new_zeros(vectors.shape[1])
        if len(rows):
            mean = rows.mean(0)
            rows -= mean
            values = torch.linalg.eigvalsh(rows @ rows.T / len(rows))
            found[-len(rows) :] = _cleaned(values, mean)
        return found


def _cleaned(values: Tensor, mean: Tensor) -> Tensor:
    """Eigenvalues without those that rounding made."""
    return values.where(values > (_ROUNDING * mean.norm()) ** 2, 0.0)


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
