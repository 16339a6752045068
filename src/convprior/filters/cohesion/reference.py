"""Slow oracles of cohesion and of spatial correlation: float64, one loop a sum.

Nothing here is imported by the fast paths; the tests compare the two.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def reference_relation(kernel_size: Sequence[int], law: Callable[[float], float]) -> Tensor:
    """``R[p, q] = law(|p - q|)``, entry by entry, row-major taps."""
    taps = list(itertools.product(*(range(k) for k in kernel_size)))
    rows = [[law(math.dist(p, q)) for q in taps] for p in taps]
    return torch.tensor(rows, dtype=torch.float64)


def reference_cohesion(weight: Tensor, relation: Tensor) -> Tensor:
    """``w'Rw / (||w||^2 lambda_max(R))`` filter by filter, ``(out, in)``."""
    largest = float(torch.linalg.eigvalsh(relation)[-1])
    cohesion = torch.empty(weight.shape[:2], dtype=torch.float64)
    for o, i in itertools.product(*(range(n) for n in weight.shape[:2])):
        row = weight[o, i].detach().double().flatten().tolist()
        total = sum(
            row[p] * float(relation[p, q]) * row[q]
            for p in range(len(row))
            for q in range(len(row))
        )
        cohesion[o, i] = total / sum(value * value for value in row) / largest
    return cohesion


def reference_power_iteration(relation: Tensor, steps: int = 2000) -> Tensor:
    """The leading eigenvector of a positive matrix, unit norm, by repeated multiplication."""
    vector = torch.ones(len(relation), dtype=torch.float64)
    for _ in range(steps):
        vector = relation @ vector
        vector = vector / vector.norm()
    return vector


def reference_spatial_covariance(
    maps: Tensor, kernel_size: Sequence[int], dilation: Sequence[int], center: bool = True
) -> Tensor:
    """Mean over channels, images and position pairs of ``(x_p - m_c) (x_q - m_c)``.

    ``p`` and ``q`` are positions of one map as far apart as two taps; ``m_c`` is the mean of
    channel ``c`` over all images and positions, or 0.

    Args:
        maps: (n, C, *sizes).
        kernel_size: one size per axis.
        dilation: one spacing per axis.
        center: take the channel means off.

    Returns:
        float64 (taps, taps), row-major taps.
    """
    maps = maps.detach().double()
    if center:
        axes = [0, *range(2, maps.ndim)]
        maps = maps - maps.mean(axes, keepdim=True)
    taps = list(itertools.product(*(range(k) for k in kernel_size)))
    positions = list(itertools.product(*(range(n) for n in maps.shape[2:])))
    at = {p: maps.flatten(2)[..., i] for i, p in enumerate(positions)}
    covariance = torch.empty(len(taps), len(taps), dtype=torch.float64)
    for (row, p), (column, q) in itertools.product(enumerate(taps), enumerate(taps)):
        step = [(b - a) * d for a, b, d in zip(p, q, dilation, strict=True)]
        products = []
        for here in positions:
            there = tuple(a + s for a, s in zip(here, step, strict=True))
            if there in at:
                products.append((at[here] * at[there]).mean())
        covariance[row, column] = sum(products) / len(products)
    return covariance
