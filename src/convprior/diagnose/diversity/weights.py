"""What Bias Loss would make of the variances: how it weighs, batch by batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from convprior.losses.weights import check_shape_of_weights, extremes, formula, scaled

BINS = 20
"""Of the histogram of ``s``."""


@dataclass(frozen=True)
class BiasLossWeights:
    """The weights ``z = exp(alpha s) - beta`` that Bias Loss would give to these images.

    Its ``s`` is the variance scaled to the range of a batch, so it depends on the batch: these are
    of batches drawn at random. Larger batches have wider ranges and smaller mean weights.

    Attributes:
        alpha: spread of the weights.
        beta: what is subtracted.
        batch_size: of the batches.
        mean: mean weight; its loss is about the cross-entropy times this number.
        counts: images whose ``s`` is in each of 20 equal bins from 0 to 1.
        on_correct: mean weight of the images classified correctly; None if there is none.
        on_wrong: mean weight of the others likewise.
    """

    alpha: float
    beta: float
    batch_size: int
    mean: float
    counts: tuple[int, ...]
    on_correct: float | None
    on_wrong: float | None


def weigh(
    variance: Tensor,
    correct: Tensor,
    *,
    alpha: float,
    beta: float,
    batch_size: int,
    seed: int,
) -> BiasLossWeights:
    """Weighs images in random batches, the last as small as it has to be.

    Args:
        variance: (N,), finite, N > 0.
        correct: (N,) bool.
        alpha: of Bias Loss.
        beta: of Bias Loss.
        batch_size: of the batches.
        seed: of the choice of batches.

    Raises:
        InputError: alpha or beta is outside its range.
    """
    check_shape_of_weights(alpha, beta, None)
    order = torch.randperm(len(variance), generator=torch.Generator().manual_seed(seed))
    weight = torch.ones_like(variance)
    counts = torch.zeros(BINS, dtype=torch.int64)
    for rows in torch.split(order, batch_size):
        own = variance[rows]
        low, high = extremes(own, torch.ones_like(own, dtype=torch.bool))
        weight[rows] = scaled(own, low, high, low, formula(alpha, beta, None))
        if high > low:
            place = ((own - low) / (high - low) * BINS).long().clamp(max=BINS - 1)
            counts += torch.bincount(place, minlength=BINS)
    weight = weight.double()
    return BiasLossWeights(
        alpha=alpha,
        beta=beta,
        batch_size=batch_size,
        mean=float(weight.mean()),
        counts=tuple(counts.tolist()),
        on_correct=_mean(weight[correct]),
        on_wrong=_mean(weight[~correct]),
    )


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None
