"""Second moments of existing filters: what a trained network's taps look like."""

import torch
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.filters.laws import as_kernel_size, tap_distances


def second_moments(source: nn.Module | Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Raw second moments ``M = mean over filters of w w'`` of the taps.

    Args:
        source: a convolution, or its weight ``(out, in/groups, *kernel_size)``.

    Returns:
        float64 (taps, taps) on the CPU with row-major taps, and the kernel size.

    Raises:
        InputError: the weight has no kernel axes, is not finite, or a tap is 0 in every filter.

    Source: our choice.
    """
    weight = source if isinstance(source, Tensor) else getattr(source, "weight", None)
    if isinstance(source, Tensor):
        layer = "this weight"
    else:  # a whole network would print itself over a hundred lines
        layer = type(source).__name__ if list(source.children()) else str(source)
    if not isinstance(weight, Tensor) or weight.ndim < 3:
        raise InputError(
            f"{layer} is no convolution weight (out, in/groups, *kernel_size); "
            "give one convolution or its weight"
        )
    sizes = as_kernel_size(tuple(weight.shape[2:]))
    rows = weight.detach().to("cpu", torch.float64).reshape(-1, weight[0, 0].numel())
    largest = rows.abs().max()
    if not bool(torch.isfinite(largest)):
        raise InputError(f"{layer} holds values that are not finite; measure an undamaged one")
    # Divided first: squares of tiny weights would underflow, and the scale is free anyway.
    rows = rows / largest.clamp(min=torch.finfo(torch.float64).tiny)
    moments = rows.T @ rows / len(rows)
    zeros = (moments.diagonal() == 0).nonzero().flatten()
    if len(zeros):
        tap = tuple(int(i) for i in torch.unravel_index(zeros[0], sizes))
        raise InputError(
            f"tap {tap} of {layer} is zero in every filter, so its cost would be infinite; "
            "measure another layer"
        )
    return moments, sizes


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
