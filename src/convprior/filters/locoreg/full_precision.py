"""The paths of LocoReg for correlated taps: every filter times one small symmetric matrix.

A contiguous weight is (filters, taps) in memory and a channels-last one (out, taps, in), so both
are multiplied where they lie, without a copy. Below 16 taps two filters form one row of the
contiguous product, by a block-diagonal matrix: a row of 9 numbers leaves a vector unit idle (2.4
times as long on a CPU). A stack of layers of equal shape would first have to be copied together.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from convprior.errors import InputError
from convprior.filters.laws import Control, changing_permutation, check_floor
from convprior.filters.locoreg.multi_tensor import HALF
from convprior.filters.prior.filter_prior import FilterPrior

# Numbers: a larger product leaves the cache and costs page faults (measured: twice the time).
_PIECE = 1 << 18
_SHORT = 16  # taps: from here on single filters are as fast as pairs (measured on a CPU)


def precision_matrix(
    prior: FilterPrior, floor: float = 0.0, *, control: Control | None = None, seed: int = 0
) -> Tensor:
    """``A = floor I + (1 - floor) P``, ``P = Sigma^-1`` scaled to ``trace(P) = taps``.

    Args:
        prior: of any correlation.
        floor: share of plain L2, in [0, 1]; the trace stays.
        control: None, or ``permuted``: rows and columns of ``P`` shuffled alike.
        seed: of the permutation, the same as for costs.

    Returns:
        (taps, taps), float64, symmetric, positive definite.

    Raises:
        InputError: ``Sigma`` is singular, or an argument is out of its range.

    Source: Feinman and Lake, arXiv 1903.01882 (they fix the determinant); trace and floor are our
    choice.
    """
    check_floor(floor)
    if control == "reversed":
        raise InputError(
            "control='reversed' turns the order of the taps' costs around, and the correlations of "
            f"{prior!r} have no order to turn; choose 'permuted', or give its variances alone"
        )
    if control not in (None, "permuted"):
        raise InputError(f"control is {control!r}; choose None or 'permuted' for this prior")
    matrix = prior.precision
    matrix = matrix * (matrix.shape[0] / matrix.trace())
    matrix = (matrix + matrix.T) / 2
    if control == "permuted":
        matrix = _permuted(matrix, seed)
    return floor * torch.eye(matrix.shape[0], dtype=torch.float64) + (1.0 - floor) * matrix


def lay_out(matrix: Tensor, weight: Tensor) -> Tensor:
    """The matrix that :func:`times` wants for ``weight``: its dtype and device, paired or not."""
    taps = matrix.shape[0]
    if _layout(weight) != "planes" and taps < _SHORT and weight.numel() % (2 * taps) == 0:
        matrix = torch.kron(torch.eye(2, dtype=matrix.dtype), matrix.contiguous())
    dtype = torch.float32 if weight.dtype in HALF else weight.dtype
    return matrix.to(weight.device, dtype)


def times(weight: Tensor, matrix: Tensor) -> Tensor:
    """``A w`` for every filter ``w``; differentiable. Autocast must be off.

    Args:
        weight: ``(out, in, *kernel_size)``.
        matrix: ``A``, from :func:`lay_out` for this weight.

    Returns:
        The shape and memory format of ``weight``; float32 for half-precision weights.
    """
    product = _product(_rows(weight, matrix), matrix)
    if product.ndim == 2:
        return product.view(weight.shape)
    return product.view(len(weight), *weight.shape[2:], -1).movedim(-1, 1)


def precision_squares(
    weights: Sequence[Tensor], matrices: list[Tensor], roots: list[Tensor]
) -> Tensor:
    """``sum over weights and filters of w' A w``, differentiable, one graph node for all weights.

    Args:
        weights: of one dtype and device.
        matrices: ``A``, from :func:`lay_out`.
        roots: the symmetric root of ``A``, from :func:`lay_out`.

    Returns:
        Scalar, >= 0; float32 for half-precision weights.
    """
    total: Tensor = _PrecisionSquares.apply(matrices, roots, *weights)
    return total


def add_precision_gradients_(
    gradients: Sequence[Tensor], weights: Sequence[Tensor], matrices: list[Tensor], scale: float
) -> None:
    """``g += scale A w`` for each weight, in one pass where gradient and weight lie alike."""
    for gradient, weight, matrix in zip(gradients, weights, matrices, strict=True):
        with torch.autocast(weight.device.type, enabled=False):
            layout = _layout(weight)
            alike = layout is not None and layout == _layout(gradient)
            if not alike or {gradient.dtype, weight.dtype} != {matrix.dtype}:
                gradient.add_(times(weight, matrix), alpha=scale)
            elif layout == "rows":
                _rows(gradient, matrix).addmm_(_rows(weight, matrix), matrix, alpha=scale)
            else:
                planes = matrix.expand(len(weight), -1, -1)
                _rows(gradient, matrix).baddbmm_(planes, _rows(weight, matrix), alpha=scale)


def shrink_(
    weights: Sequence[Tensor], matrices: list[Tensor], amounts: Sequence[float | Tensor]
) -> None:
    """``w -= amount A w`` for each weight; half precision is rounded once, at the end."""
    for weight, matrix, amount in zip(weights, matrices, amounts, strict=True):
        known = _layout(weight) is not None
        rows, multiply = (_rows(weight, matrix), _product) if known else (weight, times)
        in_pieces = known and weight.device.type == "cpu"
        parts = rows.chunk(math.ceil(weight.numel() / _PIECE) or 1) if in_pieces else (rows,)
        with torch.autocast(weight.device.type, enabled=False):
            for part in parts:
                product = multiply(part, matrix)
                if isinstance(amount, Tensor):
                    part.sub_(product.mul_(amount))
                else:
                    part.sub_(product, alpha=amount)


class _PrecisionSquares(torch.autograd.Function):
    @staticmethod
    def forward(_matrices: list[Tensor], roots: list[Tensor], *weights: Tensor) -> Tensor:
        with torch.autocast(weights[0].device.type, enabled=False):
            pairs = zip(weights, roots, strict=True)
            norms = [torch.linalg.vector_norm(times(weight, root)) for weight, root in pairs]
            return torch.stack(norms).square().sum()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:  # torch.func's
        ctx.matrices, _, *weights = inputs
        ctx.save_for_backward(*weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        weights: list[Tensor] = list(ctx.saved_tensors)
        with torch.autocast(weights[0].device.type, enabled=False):
            # The scalar goes into the small matrices, so that each weight is read once.
            scaled = [2.0 * grads[0] * matrix for matrix in ctx.matrices]
            pairs = zip(weights, scaled, strict=True)
            return None, None, *(times(weight, matrix) for weight, matrix in pairs)


def _layout(weight: Tensor) -> Literal["rows", "planes"] | None:
    if weight.is_contiguous():
        return "rows"
    return "planes" if weight.movedim(1, -1).is_contiguous() else None


def _rows(weight: Tensor, matrix: Tensor) -> Tensor:
    if _layout(weight) == "planes":
        return weight.movedim(1, -1).flatten(1, -2)
    return weight.reshape(-1, matrix.shape[0])


def _product(rows: Tensor, matrix: Tensor) -> Tensor:
    wide = rows.float() if rows.dtype in HALF else rows
    if rows.ndim == 2:
        return wide @ matrix
    return torch.bmm(matrix.expand(len(wide), -1, -1), wide)


def _permuted(matrix: Tensor, seed: int) -> Tensor:
    taps = matrix.shape[0]
    apart = ~torch.eye(taps, dtype=torch.bool)
    for part in (matrix.diagonal(), matrix[apart]):
        if part.numel() and bool(part.min() != part.max()):
            break
    else:  # every shuffle maps it onto itself
        return matrix
    order = changing_permutation(
        taps, seed, lambda order: not torch.equal(matrix[order][:, order], matrix)
    )
    return matrix[order][:, order]
