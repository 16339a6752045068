"""The weights that Bias Loss gives to the examples of a batch."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from convprior.errors import InputError
from convprior.losses.variance import ROUNDING, feature_variance

Control = Literal["constant", "shuffled", "inverted", "2021"]

LARGEST = 20.0
"""Of the exponent: beyond it the weights of a running minimum would become infinite."""


def bias_weights(features: Tensor, alpha: float = 0.3, beta: float = 0.3) -> Tensor:
    r"""The weight of each example: ``z_i = exp(alpha s_i) - beta``, without gradient.

    ``s_i = (v_i - min v) / (max v - min v)`` with the variances ``v`` of
    :func:`~convprior.losses.feature_variance` over this batch, so ``z`` is between ``1 - beta``
    and ``exp(alpha) - beta``: 0.7 and 1.05 by default. All weights are 1 if all variances are
    equal, as in a batch of one; a sample with a NaN or an infinity weighs 1 and takes no part in
    minimum and maximum.

    Over several micro-batches the weights of the joint batch take two passes: features first.

    >>> micro_batches = torch.rand(4, 8, 16, 5, 5)  # 4 micro-batches of 8 samples
    >>> z = bias_weights(micro_batches.flatten(0, 1)).view(4, 8)
    >>> bool(z.min() == 0.7)
    True

    Args:
        features: (N, ...), the last feature maps before the global pooling.
        alpha: spread of the weights, >= 0.
        beta: what is subtracted, < 1.

    Returns:
        (N,), float32, or float64 for float64.

    Raises:
        InputError: as :func:`~convprior.losses.feature_variance`, or ``alpha`` or ``beta`` is out
            of its range.

    Source: Abrahamyan et al. (arXiv 2107.11170) and their code as corrected in September 2022.
    """
    check_shape_of_weights(alpha, beta, None)
    variance = feature_variance(features)
    low, high = extremes(variance, finite(variance))
    return scaled(variance, low, high, low, formula(alpha, beta, None))


def formula(alpha: float, beta: float, control: Control | None) -> Callable[[Tensor], Tensor]:
    """The increasing function from the scaled variance ``s`` to the weight ``z``.

    ``exp(alpha s) - beta``, or for the control ``2021`` what the authors' code computed from
    August 2021 to September 2022: ``exp(beta s) - 1 + alpha``.
    """
    if control == "2021":
        return lambda s: torch.exp((beta * s).clamp(max=LARGEST)) - (1.0 - alpha)
    return lambda s: torch.exp((alpha * s).clamp(max=LARGEST)) - beta


def extremes(variance: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest of the counted variances; ``inf`` and ``-inf`` of none."""
    both = torch.stack([-variance, variance]).masked_fill(~counted, -math.inf)
    least, largest = pad(both, (0, 1), value=-math.inf).amax(1).unbind()
    return -least, largest


def scaled(
    variance: Tensor, low: Tensor, high: Tensor, origin: Tensor, weight: Callable[[Tensor], Tensor]
) -> Tensor:
    """``weight((v - origin) / (high - low))``; 1 where ``v`` is not finite or the range is empty.

    A range within rounding of ``high`` is empty: it is what one sample computed twice can show.
    """
    spread = high - low
    usable = finite(variance) & (spread > ROUNDING * torch.finfo(high.dtype).eps * high)
    return weight((variance - origin) / spread).masked_fill(~usable, 1.0)


def finite(values: Tensor) -> Tensor:
    """``torch.isfinite`` in half as many operations."""
    return values.abs() < math.inf


def check_shape_of_weights(alpha: Any, beta: Any, control: Control | None) -> None:
    """Raises an InputError unless weights are positive, finite and grow with the variance."""
    if isinstance(alpha, Tensor) or isinstance(beta, Tensor):
        raise InputError("alpha and beta must be numbers, not tensors; class weights are weight=")
    if control == "2021":
        if not (0.0 <= beta <= LARGEST and 0.0 < alpha < math.inf):
            raise InputError(
                f"alpha={alpha!r}, beta={beta!r}; with control='2021', exp(beta s) - 1 + alpha, "
                f"alpha must be > 0 and beta from 0 to {LARGEST:g}"
            )
    elif not (0.0 <= alpha <= LARGEST and -math.inf < beta < 1.0):
        raise InputError(
            f"alpha={alpha!r}, beta={beta!r}; alpha must be from 0 to {LARGEST:g} and beta < 1, so "
            "that the weights exp(alpha s) - beta are positive and finite"
        )
