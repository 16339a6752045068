"""A prior in words: its variances, how neighbors go together, whether it is singular."""

import torch
from torch import Tensor

from convprior.filters.prior.covariance import TapCovariance


def describe(prior: TapCovariance) -> str:
    """The prior's repr, then its variance grid, neighbor correlations, rank and condition."""
    taps = prior.variance.numel()
    rows = prior.variance.reshape(-1, prior.kernel_size[-1])
    grid = [" ".join(f"{value:8.4g}" for value in row) for row in rows.tolist()]
    condition = f"condition {prior.condition:.4g}"
    if prior.is_singular:
        condition = "singular: no precision but in its subspace"
    lines = [repr(prior), *_labeled("variance", grid)]
    if not prior.is_diagonal:
        lines += _labeled("neighbors", [_neighbors(prior)])
    return "\n".join([*lines, *_labeled("rank", [f"{prior.rank} of {taps}, {condition}"])])


def neighbor_correlations(prior: TapCovariance) -> list[float]:
    """For each axis longer than 1, the mean correlation of taps that are next to each other."""
    sizes = prior.kernel_size
    numbers = torch.arange(prior.variance.numel()).view(sizes)
    return [
        _mean_between(prior.correlation, numbers, axis)
        for axis, size in enumerate(sizes)
        if size > 1
    ]


def _mean_between(correlation: Tensor, numbers: Tensor, axis: int) -> float:
    count = numbers.shape[axis] - 1
    first, second = numbers.narrow(axis, 0, count), numbers.narrow(axis, 1, count)
    return float(correlation[first.flatten(), second.flatten()].mean())


def _neighbors(prior: TapCovariance) -> str:
    names = ("depth", "height", "width")[3 - len(prior.kernel_size) :]
    long = [name for name, size in zip(names, prior.kernel_size, strict=True) if size > 1]
    values = zip(long, neighbor_correlations(prior), strict=True)
    return "mean correlation " + ", ".join(f"{value:.4g} along {name}" for name, value in values)


def _labeled(label: str, lines: list[str]) -> list[str]:
    return [f"  {label if i == 0 else '':<9}  {line}" for i, line in enumerate(lines)]
