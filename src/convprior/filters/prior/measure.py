"""Second moments of existing filters: what a trained network's taps look like."""

from collections.abc import Sequence

import torch
from torch import Tensor

from convprior.errors import InputError
from convprior.filters.filter_banks import FilterBank
from convprior.filters.laws import tap_distances
from convprior.filters.prior.gaussian import check_taps
from convprior.filters.prior.sources import size_of


def pooled_moments(banks: Sequence[FilterBank]) -> Tensor:
    """Mean over layers of ``M = mean over filters of w w'``, each scaled to trace = taps.

    The scale is taken off so that every layer counts alike, whatever its width and depth made of
    the size of its weights.

    Args:
        banks: at least one, all of one kernel size.

    Returns:
        float64 (taps, taps) on the CPU with row-major taps, trace = taps.

    Raises:
        InputError: a weight is all zero, or a tap is 0 in every filter.

    Source: our choice.
    """
    check_taps(banks[0].weight[0, 0].numel())
    moments = torch.stack([_moments(bank) for bank in banks]).mean(0)
    zeros = (moments.diagonal() == 0).nonzero().flatten()
    if len(zeros):
        tap = tuple(int(i) for i in torch.unravel_index(zeros[0], size_of(banks[0])))
        layers = banks[0].name if len(banks) == 1 else f"all {len(banks)} layers"
        raise InputError(
            f"tap {tap} of {layers} is zero in every filter, so its cost would be infinite; "
            "measure another layer"
        )
    return moments


def _moments(bank: FilterBank) -> Tensor:
    rows = bank.weight.double().flatten(2).flatten(0, 1)
    largest = rows.abs().max()
    if largest == 0:
        raise InputError(f"every weight of {bank.name} is zero; measure another layer")
    # Divided first: squares of tiny weights would underflow, and the scale is free anyway.
    rows = rows / largest
    moments = rows.T @ rows
    return moments * (rows.shape[1] / moments.trace())


def decreasing_outward(variance: Tensor) -> Tensor:
    """The closest profile that depends on the distance from the center and never grows outward.

    Least squares under both constraints: the mean over each ring of equal distance, then
    pool-adjacent-violators from the center out, rings weighted by their number of taps.

    Args:
        variance: (k_h, k_w) or another kernel's shape.

    Returns:
        A tensor of the same shape.

    Source: isotonic regression (Barlow et al., 1972), applied to the radius: our choice.
    """
    distance = tap_distances(tuple(variance.shape))
    rings, ring_of_tap = torch.unique(distance, return_inverse=True)
    pools: list[tuple[float, int, int]] = []  # mean, taps, rings
    for ring in range(len(rings)):
        members = variance[ring_of_tap == ring]
        pools.append((float(members.mean()), members.numel(), 1))
        while len(pools) > 1 and pools[-2][0] < pools[-1][0]:
            (first, m, r), (second, n, s) = pools[-2], pools[-1]
            pools[-2:] = [((first * m + second * n) / (m + n), m + n, r + s)]
    levels = [mean for mean, _, span in pools for _ in range(span)]
    return torch.tensor(levels, dtype=variance.dtype)[ring_of_tap]
