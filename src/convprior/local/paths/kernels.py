"""Where the kernels of a tile come from, and where their gradients go.

Kernels and their gradients are flat: (..., groups, F / groups, taps), see ``tiles.flat_kernels``.
"""

from typing import Protocol

import torch
from torch import Tensor

from convprior.local.geometry import Geometry
from convprior.local.paths.tiles import Tile, flat_kernels, shaped_kernels


class Kernels(Protocol):
    """A kernel for each position of a tile, or one for all of them if ``shared``."""

    shared: bool

    def of(self, tile: Tile) -> Tensor:
        """(R or 1, groups, F / groups, taps)."""


class LearnedKernels(Kernels, Protocol):
    """Kernels that take gradients."""

    def add_gradient(self, tile: Tile, grad: Tensor) -> None:
        """Takes the gradient of what ``of`` gave."""


class MixedKernels:
    """``W(i, j) = sum_k w_k(i, j) B_k``, and for gradients ``dB = w' dW``, ``dw = <dW, B>``.

    Args:
        bases: (K, F, C / groups, kh, kw).
        weights: (K, H', W'), or (K, H', 1) for one kernel a row.
        geometry: of the convolution.
        needs: whether the bases, the weights want a gradient.
    """

    def __init__(
        self,
        bases: Tensor,
        weights: Tensor,
        geometry: Geometry,
        needs: tuple[bool, bool] = (False, False),
    ) -> None:
        self.shared = weights.shape[2] == 1
        self._flat = flat_kernels(bases, geometry.groups)
        self._table = self._flat.flatten(1)  # (K, all of a kernel)
        self._weights = weights.to(bases.dtype)
        self._bases = bases
        self._grad_table = torch.zeros_like(self._table, dtype=sums(bases)) if needs[0] else None
        self._grad_weights = torch.zeros_like(weights) if needs[1] else None

    def of(self, tile: Tile) -> Tensor:
        """(R or 1, groups, F / groups, taps)."""
        mixed = self._part(self._weights, tile).t() @ self._table
        return torch.unflatten(mixed, 1, self._flat.shape[1:])

    def add_gradient(self, tile: Tile, grad: Tensor) -> None:
        """Takes the gradient of what ``of`` gave."""
        flat = grad.reshape(-1, self._table.shape[1])
        if self._grad_table is not None:
            add_product_(self._grad_table, self._part(self._weights, tile), flat)
        if self._grad_weights is not None:
            self._part(self._grad_weights, tile).add_(self._table @ flat.t())

    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        """Of bases and weights, in their dtypes."""
        bases = self._bases
        grad_bases = None
        if self._grad_table is not None:
            flat = torch.unflatten(self._grad_table.to(bases.dtype), 1, self._flat.shape[1:])
            grad_bases = shaped_kernels(flat, (bases.shape[3], bases.shape[4]))
        return grad_bases, self._grad_weights

    @staticmethod
    def _part(weights: Tensor, tile: Tile) -> Tensor:
        """(K, R), or (K, 1) of weights that do not depend on the column."""
        row = weights[:, tile.row]
        return row if row.shape[1] == 1 else row[:, tile.first : tile.last]


class GivenKernels:
    """A parameter holds the kernel of each position, (H', W', F, C / groups, kh, kw).

    Args:
        weight: that parameter.
        geometry: of the convolution.
        needs: whether it wants a gradient.
    """

    shared = False

    def __init__(self, weight: Tensor, geometry: Geometry, needs: bool = False) -> None:
        self._weight = weight
        self._groups = geometry.groups
        self.gradient = torch.empty_like(weight) if needs else None

    def of(self, tile: Tile) -> Tensor:
        """(R, groups, F / groups, taps)."""
        return flat_kernels(self._weight[tile.row, tile.first : tile.last], self._groups)

    def add_gradient(self, tile: Tile, grad: Tensor) -> None:
        """Takes the gradient of what ``of`` gave; a position is in one tile only."""
        if self.gradient is not None:
            height, width = self._weight.shape[-2:]
            part = self.gradient[tile.row, tile.first : tile.last]
            part.copy_(shaped_kernels(grad, (height, width)))


def sums(x: Tensor) -> torch.dtype:
    """Where many terms of the dtype of ``x`` are added up: at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a @ b``, where ``total`` may be the more precise."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
