"""Slow oracles of this room: float64, one loop a sum, one formula a line.

Nothing here is imported by the fast paths; the tests compare the two.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_SHAPES: dict[str, Callable[[float], float]] = {
    "quadratic": lambda d: d * d,
    "linear": lambda d: d,
    "geometric": lambda d: 2.0**d - 1.0,
    "gaussian": lambda d: 1.0 - math.exp(-d * d / 2.0),
}


def reference_tap_costs(kernel_size: Sequence[int], law: str, floor: float = 0.0) -> Tensor:
    """``floor + (1 - floor) h(d) / mean(h)`` tap by tap, each law at its default parameter.

    Args:
        kernel_size: one size per axis.
        law: as in :func:`convprior.filters.tap_costs`.
        floor: in [0, 1].

    Returns:
        float64 tensor of shape ``kernel_size``.
    """
    taps = list(itertools.product(*(range(k) for k in kernel_size)))
    center = [(k - 1) / 2 for k in kernel_size]
    distance = {tap: math.dist(tap, center) for tap in taps}
    nearest = min(distance.values())
    if all(abs(d - nearest) < 1e-9 for d in distance.values()):
        return torch.ones(tuple(kernel_size), dtype=torch.float64)
    if law == "two_level":
        h = {tap: float(d > nearest + 1e-9) for tap, d in distance.items()}
    else:
        h = {tap: _SHAPES[law](d) for tap, d in distance.items()}
    mean = sum(h.values()) / len(taps)
    costs = torch.empty(tuple(kernel_size), dtype=torch.float64)
    for tap in taps:
        costs[tap] = floor + (1.0 - floor) * h[tap] / mean
    return costs


def reference_penalty(weight: Tensor, costs: Tensor, strength: float) -> float:
    """``strength * sum over o, i, taps of c[tap] * w[o, i, tap]^2``, term by term.

    Args:
        weight: ``(out, in, *kernel_size)``, any floating dtype.
        costs: ``(*kernel_size)``.
        strength: the factor in front.

    Returns:
        The penalty as a Python float.
    """
    total = 0.0
    for row in weight.detach().to(torch.float64).reshape(-1, costs.numel()).tolist():
        for value, cost in zip(row, costs.flatten().tolist(), strict=True):
            total += cost * value * value
    return strength * total


def reference_gradient(weight: Tensor, costs: Tensor, strength: float) -> Tensor:
    """``2 * strength * c * w``, the gradient of :func:`reference_penalty`, in float64."""
    gradient = torch.empty(weight.shape, dtype=torch.float64)
    for index in itertools.product(*(range(n) for n in weight.shape)):
        tap = index[weight.ndim - costs.ndim :]
        gradient[index] = 2.0 * strength * costs[tap] * weight[index].double()
    return gradient


def reference_precision_penalty(weight: Tensor, covariance: Tensor) -> float:
    """``sum over filters f of w_f' A w_f``, ``A = Sigma^-1`` scaled to ``trace(A) = taps``.

    Args:
        weight: ``(out, in, *kernel_size)``.
        covariance: ``Sigma``, (taps, taps), positive definite.

    Returns:
        The penalty as a Python float.
    """
    taps = covariance.shape[0]
    precision = torch.linalg.inv(covariance.double())
    precision = precision * (taps / precision.trace())
    total = 0.0
    for row in weight.detach().double().reshape(-1, taps):
        for p in range(taps):
            for q in range(taps):
                total += float(row[p] * precision[p, q] * row[q])
    return total


def reference_precision_gradient(weight: Tensor, precision: Tensor, strength: float) -> Tensor:
    """``2 * strength * A w_f`` for every filter ``f``, term by term, in float64.

    Args:
        weight: ``(out, in, *kernel_size)``.
        precision: ``A``, (taps, taps).
        strength: the factor of the penalty.

    Returns:
        The shape of ``weight``.
    """
    matrix = precision.double().tolist()
    taps = range(len(matrix))
    rows = weight.detach().double().reshape(-1, len(matrix)).tolist()
    found = [
        [2.0 * strength * sum(matrix[p][q] * row[q] for q in taps) for p in taps] for row in rows
    ]
    return torch.tensor(found, dtype=torch.float64).reshape(weight.shape)


def reference_precision_decay(
    weight: Tensor, precision: Tensor, strength: float, lr: float
) -> Tensor:
    """``(I - 2 * lr * strength * A) w_f`` for every filter ``f``, in float64."""
    return weight.detach().double() - lr * reference_precision_gradient(weight, precision, strength)
