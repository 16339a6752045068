"""Slow oracles of FilterPrior: float64, entry by entry. Only tests import this."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor


def reference_kronecker(factors: Sequence[Tensor]) -> Tensor:
    """``Sigma[p, q] = product over axes a of factors[a][p_a, q_a]``, taps ``p, q`` row-major.

    Args:
        factors: one ``(k, k)`` matrix an axis.

    Returns:
        float64 (taps, taps).
    """
    taps = list(itertools.product(*(range(len(factor)) for factor in factors)))
    covariance = torch.empty(len(taps), len(taps), dtype=torch.float64)
    for (i, p), (j, q) in itertools.product(enumerate(taps), enumerate(taps)):
        covariance[i, j] = math.prod(
            float(factor[a, b]) for factor, a, b in zip(factors, p, q, strict=True)
        )
    return covariance


def reference_product(first: Tensor, second: Tensor) -> Tensor:
    """``first[p, q] * second[p, q]`` scaled to trace = taps, for (taps, taps) matrices."""
    taps = len(first)
    trace = sum(float(first[p, p] * second[p, p]) for p in range(taps))
    product = torch.empty(taps, taps, dtype=torch.float64)
    for p, q in itertools.product(range(taps), repeat=2):
        product[p, q] = float(first[p, q]) * float(second[p, q]) * taps / trace
    return product


def reference_scaled(covariance: Tensor, profile: Sequence[float]) -> Tensor:
    """``s_p Sigma[p, q] s_q`` scaled to trace = taps; ``profile`` row-major."""
    outer = torch.tensor([[a * b for b in profile] for a in profile], dtype=torch.float64)
    return reference_product(covariance, outer)


def reference_pseudo_inverse(covariance: Tensor, tolerance: float = 1e-10) -> Tensor:
    """``sum over eigenvalues l > tolerance of v v' / l``, one eigenvector after the other."""
    values, vectors = torch.linalg.eigh(covariance.double())
    inverse = torch.zeros_like(vectors)
    for value, vector in zip(values.tolist(), vectors.T, strict=True):
        if value > tolerance:
            inverse += torch.outer(vector, vector) / value
    return inverse


def reference_pooled_moments(weights: Sequence[Tensor]) -> Tensor:
    """Mean over layers of the mean over filters of ``w w'``, each layer's scaled to trace = taps.

    Args:
        weights: ``(out, in/groups, *kernel_size)``, all of one kernel size.

    Returns:
        float64 (taps, taps).
    """
    taps = weights[0][0, 0].numel()
    pooled = torch.zeros(taps, taps, dtype=torch.float64)
    for weight in weights:
        moments = torch.zeros(taps, taps, dtype=torch.float64)
        for row in weight.detach().double().reshape(-1, taps).tolist():
            for p, q in itertools.product(range(taps), repeat=2):
                moments[p, q] += row[p] * row[q]
        trace = sum(float(moments[p, p]) for p in range(taps))
        pooled += moments * (taps / trace) / len(weights)
    return pooled
