"""Bias Loss and its rivals in plain float64 loops: the oracles of the fast forms."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def reference_variance(features: ArrayLike) -> Array:
    """``v_i = 1/(n-1) sum_j (x_ij - mean_i)^2`` of (N, ...) features; (N,)."""
    values = np.asarray(features, np.float64)
    return np.array([np.var(sample.ravel(), ddof=1) for sample in values])


def reference_weights(
    variance: ArrayLike,
    alpha: float = 0.3,
    beta: float = 0.3,
    *,
    counted: Sequence[bool] | None = None,
    smallest: float = math.inf,
    max_weight: float = math.inf,
    control: str | None = None,
    mean_one: bool = False,
) -> Array:
    """The weight of each example, all controls but ``shuffled``.

    Args:
        variance: (N,).
        alpha: spread of the weights.
        beta: what is subtracted.
        counted: (N,), which examples take part in minimum, maximum and mean; None: all.
        smallest: in running mode the smallest variance before this batch; inf: batch mode.
        max_weight: before ``mean_one``.
        control: as in :class:`convprior.losses.BiasLoss`.
        mean_one: divide by the mean.
    """
    v = [float(value) for value in np.asarray(variance, np.float64)]
    takes_part = [True] * len(v) if counted is None else list(counted)
    inside = [x for x, c in zip(v, takes_part, strict=True) if c and math.isfinite(x)]
    weights = [1.0] * len(v)
    if inside and max(inside) > min(inside):
        low, high = min(inside), max(inside)
        for i, x in enumerate(v):
            if not math.isfinite(x):
                continue
            x = low + high - x if control == "inverted" else x
            s = (x - min(low, smallest)) / (high - low)
            z = math.exp(alpha * s) - beta
            if control == "2021":
                z = math.exp(beta * s) - 1.0 + alpha
            weights[i] = min(z, max_weight)
    shares = [z for z, c in zip(weights, takes_part, strict=True) if c]
    mean = sum(shares) / len(shares) if shares else 1.0
    if mean_one:
        weights, mean = [z / mean for z in weights], 1.0
    if control == "constant":
        weights = [mean] * len(weights)
    return np.array(weights)


def reference_loss(
    logits: ArrayLike,
    target: ArrayLike,
    z: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> float:
    """``sum_i z_i w CE_i / sum_i w``: torch's rules for classes, smoothing and soft targets."""
    rows, targets = np.asarray(logits, np.float64), np.asarray(target)
    classes = rows.shape[1]
    w = np.ones(classes) if weight is None else np.asarray(weight, np.float64)
    total = denominator = 0.0
    for row, label, factor in zip(rows, targets, np.asarray(z, np.float64), strict=True):
        log_p = row - row.max()
        log_p = log_p - math.log(np.exp(log_p).sum())
        soft = np.asarray(label, np.float64)
        if targets.ndim == 1:
            if label == ignore_index:
                continue
            soft = np.eye(classes)[label]
        denominator += float(w[label]) if targets.ndim == 1 else 1.0
        soft = (1.0 - label_smoothing) * soft + label_smoothing / classes
        total -= factor * sum(w[j] * soft[j] * log_p[j] for j in range(classes))
    return total / denominator


def reference_rival(
    logits: ArrayLike,
    target: ArrayLike,
    loss: Callable[[float], float],
) -> float:
    """Mean of ``sum_j y_j loss(p_j)`` over rows of logits and targets (N,) or (N, classes)."""
    rows, targets = np.asarray(logits, np.float64), np.asarray(target)
    if targets.ndim == 1:
        targets = np.eye(rows.shape[1])[targets]
    total = 0.0
    for row, soft in zip(rows, targets, strict=True):
        p = np.exp(row - row.max())
        p /= p.sum()
        total += sum(y * loss(float(q)) for y, q in zip(soft, p, strict=True))
    return total / len(rows)
