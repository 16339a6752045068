"""How far a layer's ratios could be off by the luck of its filters: a bootstrap interval."""

import torch
from torch import Tensor


def bootstrap_sums(sums: Tensor, draws: int, generator: torch.Generator | None = None) -> Tensor:
    """Sums over filters, for resampled sets of filters.

    Each draw takes as many filters as there are, with replacement; how often each is taken is a
    row of multinomial counts, so that all draws are one product (draws, filters) @ (filters, k).

    The unit is the **output filter**. Its weights see the same gradient history and are shared
    by one unit of the next layer, so they are not independent: resampling single weights, or
    kernels, would count each of them as new evidence and give intervals far too narrow.

    Args:
        sums: (filters, k) sums of each filter over its channels.
        draws: number of resampled sets.
        generator: of the draws.

    Returns:
        (draws, k) in the dtype of ``sums``.

    Source: Efron (1979); for clusters Davison and Hinkley (1997), section 3.8.
    """
    n = len(sums)
    taken = torch.randint(n, (draws, n), generator=generator)
    counts = torch.zeros(draws, n, dtype=sums.dtype)
    counts.scatter_add_(1, taken, torch.ones((), dtype=sums.dtype).expand(draws, n))
    return counts @ sums


def percentile_interval(values: Tensor, confidence: float) -> tuple[float, float] | None:
    """The middle ``confidence`` of the values, or None if one is not finite.

    With few filters (below about 30) such intervals are somewhat too narrow.
    """
    if not bool(torch.isfinite(values).all()):
        return None
    tail = (1.0 - confidence) / 2.0
    low, high = torch.quantile(values, torch.tensor([tail, 1.0 - tail], dtype=values.dtype))
    return float(low), float(high)
