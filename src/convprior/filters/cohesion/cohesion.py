"""Feature cohesion: how well a filter agrees with the idea that near positions belong together.

J. Schneider (arXiv 1905.10661) explains central filters by the wish for "feature cohesion" where
relations between positions are local. The paper's definition is not known to us; the quotient
below is our stand-in for it, and its maximizer our stand-in for the paper's claim.
"""

import math
from collections.abc import Callable
from difflib import get_close_matches
from typing import cast, get_args

import torch
from torch import Tensor

from convprior.errors import InputError
from convprior.filters.families import Family, tap_correlation
from convprior.filters.laws import KernelSize, as_kernel_size

CohesionLaw = Family | Callable[[Tensor], Tensor] | Tensor

# Two leading eigenvalues closer than this share are one: their eigenvectors would be arbitrary.
_SAME = 1e-10

_OTHER_NAMES = {
    "gaussian": "squared_exponential",
    "rbf": "squared_exponential",
    "matern": "matern32",
    "laplace": "exponential",
}
"""What the families are called elsewhere; ``gaussian`` is a law of the cost of a tap here."""


def feature_cohesion(
    weight: Tensor,
    law: CohesionLaw = "exponential",
    scale: float = 1.0,
    normalize: bool = True,
    *,
    zero: float = math.nan,
) -> Tensor:
    r"""The cohesion ``w'Rw / ||w||^2`` of every filter, by default over its largest value.

    ``R[p, q] = f(|p - q| / scale)`` says how much two taps belong together; ``f`` falls with the
    distance. Divided by ``lambda_max(R)`` the result is at most 1, and 1 for
    :func:`most_cohesive_filter` alone; it is above 0 wherever ``R`` is positive definite, as it is
    for the three named laws. The scale and the sign of a filter do not matter. One-hot filters
    score ``1 / lambda_max(R)``, which is also the ratio of the expectations of independent ones.

    Args:
        weight: ``(out, in/groups, *kernel_size)`` of any convolution.
        law: ``f`` by name, as in :func:`convprior.filters.tap_correlation`; a function of
            ``distance / scale`` (a float64 tensor, distances in taps); or ``R`` itself,
            (taps, taps) and symmetric, such as :func:`convprior.filters.spatial_correlation`
            measures it.
        scale: length scale in taps; a given ``R`` has none.
        normalize: divide by ``lambda_max(R)``.
        zero: the value for a filter of zeros, which has no direction and so no cohesion. NaN
            shows that there are some (``nanmean`` leaves them out); a loss wants a number. Either
            way they get no gradient.

    Returns:
        ``(out, in/groups)``, differentiable; float32 for half-precision weights.

    Raises:
        InputError: no kernel axes, an unknown law, or an ``R`` of another size, not symmetric or
            not finite.

    Example:
        >>> spike, flat = torch.zeros(1, 1, 3, 3), torch.ones(1, 1, 3, 3)
        >>> spike[0, 0, 1, 1] = 1
        >>> round(feature_cohesion(spike).item(), 4), round(feature_cohesion(flat).item(), 4)
        (0.3507, 0.9856)

    Source: our choice, after the wording of arXiv 1905.10661.
    """
    if not isinstance(weight, Tensor):
        raise InputError(
            f"weight is a {type(weight).__name__}; give the tensor of one convolution's weights, "
            "such as model.conv1.weight"
        )
    if weight.ndim < 3:
        raise InputError(
            f"a weight of shape {tuple(weight.shape)} has no kernel axes; "
            "give (out, in/groups, *kernel_size)"
        )
    relation = cohesion_matrix(tuple(weight.shape[2:]), law, scale)
    if normalize:
        relation = relation / _leading(relation)[1]
    rows = weight.flatten(2)
    rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
    # The quotient ignores a filter's scale, so a constant one may keep squares from underflow.
    largest = rows.detach().abs().amax(-1, keepdim=True)
    dead = largest == 0
    rows = torch.where(dead, 1.0, rows) / torch.where(dead, 1.0, largest)
    with torch.autocast(rows.device.type, enabled=False):
        quotient = (rows @ relation.to(rows) * rows).sum(-1) / rows.square().sum(-1)
    return torch.where(dead.squeeze(-1), zero, quotient)


def most_cohesive_filter(
    kernel_size: KernelSize, law: CohesionLaw = "exponential", scale: float = 1.0
) -> Tensor:
    """The filter of cohesion 1: the eigenvector of ``R`` with the largest eigenvalue.

    By Perron's theorem it is positive where ``R`` is; for a falling ``f`` it is symmetric and
    largest at the center, for a constant one uniform, for a growing one heaviest at the corners.
    Where a given ``R`` has negative entries signs may differ; the sum is then positive.

    Args:
        kernel_size: as in :func:`convprior.filters.tap_costs`.
        law: as in :func:`feature_cohesion`.
        scale: as in :func:`feature_cohesion`.

    Returns:
        float64, the kernel's shape, unit norm.

    Raises:
        InputError: as in :func:`feature_cohesion`; or the largest eigenvalue is shared, so that
            there is no such single filter (taps that do not belong together at all, ``scale = 0``).

    Example:
        >>> taps = most_cohesive_filter(3)
        >>> round(float(taps[1, 1] / taps[0, 1]), 3), round(float(taps[1, 1] / taps[0, 0]), 3)
        (1.226, 1.495)

    Source: our choice, as the cohesion itself.
    """
    sizes = as_kernel_size(kernel_size)
    vector, _, alone = _leading(cohesion_matrix(sizes, law, scale))
    if not alone:
        raise InputError(
            f"the largest eigenvalue for kernel size {sizes} is shared, so several filters are "
            "equally cohesive and none is the most; give a law whose neighbors belong together, "
            "for example scale=1.0"
        )
    return vector.view(sizes)


def closeness(
    kernel_size: KernelSize, law: CohesionLaw = "exponential", scale: float = 1.0
) -> Tensor:
    """How near each tap is to all taps, ``sum over q of R[p, q]``: another central weight.

    It is one step of the power iteration that leads to :func:`most_cohesive_filter`, from the
    uniform filter, and less central than that.

    Args:
        kernel_size: as in :func:`convprior.filters.tap_costs`.
        law: as in :func:`feature_cohesion`.
        scale: as in :func:`feature_cohesion`.

    Returns:
        float64, the kernel's shape.

    Raises:
        InputError: as in :func:`feature_cohesion`.

    Source: closeness centrality, with ``f`` in the place of the inverse distance: our choice.
    """
    sizes = as_kernel_size(kernel_size)
    return cohesion_matrix(sizes, law, scale).sum(1).view(sizes)


def cohesion_matrix(kernel_size: KernelSize, law: CohesionLaw, scale: float = 1.0) -> Tensor:
    """``R`` of a law by name, a function or a matrix, as in :func:`feature_cohesion`.

    Returns:
        float64 (taps, taps) on the CPU, row-major taps, exactly symmetric.

    Raises:
        InputError: as in :func:`feature_cohesion`.
    """
    sizes = as_kernel_size(kernel_size)
    if isinstance(law, str):
        return tap_correlation(sizes, _family(law), _lengthscale(scale))
    taps = math.prod(sizes)
    if isinstance(law, Tensor):
        if scale != 1.0:
            raise InputError(f"scale is {scale}, but a given matrix has none; leave it out")
        matrix = law.detach().to("cpu", torch.float64)
    elif callable(law):
        if not scale > 0.0:
            raise InputError(f"scale is {scale}; a law of your own needs one > 0, in taps")
        grid = torch.cartesian_prod(*(torch.arange(k, dtype=torch.float64) for k in sizes))
        grid = grid.view(taps, len(sizes))
        matrix = law((grid[:, None] - grid[None]).square().sum(-1).sqrt() / scale)
        matrix = torch.as_tensor(matrix, dtype=torch.float64)
    else:
        raise InputError(
            f"law is {law!r}; choose one of {', '.join(get_args(Family))}, a function or a matrix"
        )
    if matrix.shape != (taps, taps):
        raise InputError(
            f"the matrix of the law has shape {tuple(matrix.shape)}; kernel size {sizes} has "
            f"{taps} taps and needs ({taps}, {taps})"
        )
    largest = float(matrix.abs().max())
    if not math.isfinite(largest) or largest == 0.0:
        raise InputError(f"the largest entry of the law is {largest}; give finite ones, not all 0")
    if float((matrix - matrix.T).abs().max()) > 1e-6 * largest:
        raise InputError("the matrix of the law is not symmetric; give (R + R') / 2")
    return (matrix + matrix.T) / 2


def _family(law: str) -> Family:
    names = get_args(Family)
    if law not in names:
        near = _OTHER_NAMES.get(law.lower()) or next(iter(get_close_matches(law, names)), None)
        meant = f"did you mean {near!r}? There are" if near else "choose one of"
        raise InputError(f"law is {law!r}; {meant} {', '.join(names)}, a function or a matrix")
    return cast("Family", law)


def _lengthscale(scale: float) -> float:
    if not scale >= 0.0:
        raise InputError(f"scale is {scale}; give 0 (independent) to inf, in taps")
    return scale


def _leading(matrix: Tensor) -> tuple[Tensor, float, bool]:
    """Eigenvector of the largest eigenvalue, that eigenvalue, and whether it is alone there."""
    values, vectors = torch.linalg.eigh(matrix)
    vector, value = vectors[:, -1], float(values[-1])
    if value <= 0.0:
        raise InputError(
            f"the largest eigenvalue of the law is {value:.3g}; nothing belongs together, "
            "so give a law with positive entries"
        )
    alone = len(values) == 1 or float(values[-2]) < value * (1.0 - _SAME)
    total = float(vector.sum())
    # An antisymmetric vector sums to rounding: its largest entry decides.
    anchor = total if abs(total) > 1e-9 else float(vector[vector.abs().argmax()])
    return (vector if anchor >= 0.0 else -vector), value, alone
