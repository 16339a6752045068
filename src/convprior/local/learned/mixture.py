r"""The kernels of a local layer over its positions, through the Gram matrix of its bases.

The kernel of position ``p`` is ``W(p) = sum_k w_k(p) B_k``. With the Gram matrix ``G`` of the
bases and the mean ``m`` and covariance ``S`` of the weights over positions,

- ``mean_p |W(p) - mean|^2 = tr(G S)`` and ``|mean|^2 = m' G m``;
- the nonzero eigenvalues of the kernels' covariance are those of ``G S``,

so that nothing of the size of all kernels is ever built. The same kernels are a mixture of the
mean basis with weight ``sum_k w_k`` and of the deviations ``B_k - mean`` with weights ``w_k``. This
form is used, since nothing cancels in it where bases are nearly equal.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from convprior.local.layers.low_rank import LowRankLocalConvNd

_ROUNDING = 1e-12
"""Relative distances below this are rounding in float64."""


@dataclass(frozen=True, eq=False)
class Parts:
    """What a low-rank local layer computes its kernels from, in float64.

    Attributes:
        bases: (1 + K, D), the mean basis and the deviations from it.
        weights: (1 + K, P), theirs at each position, of each image for ``input`` weights; None
            for these without an input.
        spatial_bias: (P,) or None.
    """

    bases: Tensor
    weights: Tensor | None
    spatial_bias: Tensor | None


@torch.no_grad()
def parts_of(layer: LowRankLocalConvNd, x: Tensor | None = None) -> Parts:
    """The parts of a layer on the CPU, of ``input`` weights for an input ``x``.

    Tables become float64 before the softmax, so that its weights sum to 1 to that precision.
    """
    reader = _Reader(layer)
    tensors = [*reader.named_parameters(), *reader.named_buffers()]
    doubled = {
        name: t.detach().double() if t.is_floating_point() else t.clone() for name, t in tensors
    }
    given = None if x is None else x.double()
    bases, weights, bias = functional_call(reader, doubled, (given,))
    bases = bases.flatten(1)
    mean = bases.mean(0, keepdim=True)
    if weights is not None:
        weights = weights.flatten(-len(layer.input_size)).movedim(-2, 0).flatten(1)
        weights = torch.cat([weights.sum(0, keepdim=True), weights])
    return Parts(torch.cat([mean, bases - mean]), weights, None if bias is None else bias.flatten())


def in_float64(tensor: Tensor) -> Tensor:
    """On the CPU, since not every device has float64; integers stay what they are."""
    dtype = torch.float64 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", dtype)


class _Reader(nn.Module):
    """Gives out a layer's parts in a forward pass: ``functional_call`` calls nothing else."""

    def __init__(self, layer: LowRankLocalConvNd) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        missing = self.layer.weights == "input" and x is None
        weights = None if missing else self.layer.combining_weights(x)
        return self.layer.bases, weights, self.layer.spatial_bias_map()


class WeightMoments:
    """Mean and covariance of combining weights, batch by batch."""

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._sums: list[tuple[int, Tensor, Tensor]] = []

    def add(self, weights: Tensor) -> None:
        """Counts weights (K, P) in."""
        # Differences from some weights: those that are all equal have covariance 0 exactly.
        if self._first is None:
            self._first = weights[:, :1]
        difference = weights - self._first
        self._sums.append((weights.shape[1], difference.sum(1), difference @ difference.T))

    def mean_and_covariance(self) -> tuple[Tensor, Tensor] | None:
        """(K,) and (K, K), or None if there were no weights."""
        if self._first is None:
            return None
        counts, sums, products = zip(*self._sums, strict=True)
        count = sum(counts)
        mean = sum(sums[1:], sums[0]) / count
        covariance = sum(products[1:], products[0]) / count - mean.outer(mean)
        return self._first[:, 0] + mean, covariance


def distance_and_rank(gram: Tensor, mean: Tensor, covariance: Tensor) -> tuple[float, float]:
    """How far kernels are from their mean, and in how many directions.

    Args:
        gram: (K, K), inner products of the bases.
        mean: (K,), of the combining weights over positions.
        covariance: (K, K), of the same.

    Returns:
        ``sqrt(tr(G S) / m' G m)`` and the participation ratio ``tr(G S)^2 / tr(G S G S)``, which is
        0 where nothing varies.
    """
    product = gram @ covariance
    distance = relative(product.trace(), mean @ gram @ mean)
    if distance < _ROUNDING:
        return distance, 0.0
    return distance, float(product.trace() ** 2 / (product * product.T).sum())


def relative(square: Tensor, norm_square: Tensor) -> float:
    """``sqrt(square / norm_square)``; what rounding puts below zero is zero, and 0 / 0 is 0."""
    if float(square) <= 0.0:
        return 0.0
    return math.sqrt(float(square / norm_square)) if float(norm_square) > 0.0 else math.inf
