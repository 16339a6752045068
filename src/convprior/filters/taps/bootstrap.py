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


def percentile_interval(
    values: Tensor, confidence: float, filters: int | None = None
) -> tuple[float, float] | None:
    """The middle of the values, widened if the number of filters is given.

    A plain percentile interval is too narrow at few filters: it lacks the factor
    ``sqrt(n / (n - 1))`` and the wider tails of Student's t. The expanded one cuts the tails
    ``Phi(sqrt(n / (n - 1)) t)`` instead of ``Phi(z)``, with ``t`` the quantile at ``n - 1`` degrees
    of freedom (by its expansion in ``1 / (n - 1)``).

    Args:
        values: (draws,) of a ratio.
        confidence: in (0, 1).
        filters: n > 1, of which each draw was made; None leaves the plain percentiles.

    Returns:
        Lower and upper end, or None if a value is not finite.

    Source: Hesterberg (2015, arXiv 1411.5279), the expanded percentile interval; the
    quantile by Abramowitz and Stegun 26.7.5.
    """
    if not bool(torch.isfinite(values).all()):
        return None
    tail = torch.tensor((1.0 - confidence) / 2.0, dtype=values.dtype)
    if filters is not None:
        z, freedom = torch.special.ndtri(tail), filters - 1
        t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        tail = torch.special.ndtr(t * (filters / freedom) ** 0.5)
    low, high = torch.quantile(values, torch.stack([tail, 1.0 - tail]))
    return float(low), float(high)
