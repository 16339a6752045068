"""Kernels first: mix the kernel of each position, then one product a position.

``W(p) = sum_k w_k(p) B_k`` costs K / N of a convolution, as all N images share it; then each
position is one (N, taps) x (taps, F) product, together the flops of one convolution at any rank.
The authors' order costs K of them. Backward, with P the patches: ``dP = dY W``, ``dW = dY' P``,
which goes into dB and dw at once. Nothing larger than a tile is kept but inputs and results.
"""

import torch
from torch import Tensor

from convprior.local.geometry import Geometry
from convprior.local.paths.kernels import GivenKernels, MixedKernels
from convprior.local.paths.products import (
    gradient_of_input,
    gradient_of_kernels,
    multiply,
    output_like,
)
from convprior.local.paths.turned import TurnedKernels, turned

Needs = tuple[bool, bool, bool]  # gradients wanted: of x, of the bases, of the weights
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def forward(x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> Tensor:
    """``sum_k w_k * conv(x, B_k)``, for weights (K, H', W')."""
    y = output_like(x, bases.shape[1], geometry)
    multiply(x, MixedKernels(bases, weights, geometry), geometry, y)
    return y


def backward(
    x: Tensor, bases: Tensor, weights: Tensor, grad_y: Tensor, geometry: Geometry, needs: Needs
) -> Gradients:
    """The gradients of ``forward`` that are needed; the weights may be (K, H', 1) as well."""
    kernels = MixedKernels(bases, weights, geometry, needs[1:])
    grad_x = None
    if needs[0] and geometry.stride == (1, 1) and geometry.groups == 1:
        grad_x = torch.empty_like(x)
        multiply(grad_y, TurnedKernels(bases, weights, geometry), turned(geometry), grad_x)
    elif needs[0]:
        grad_x = gradient_of_input(x, kernels, grad_y, geometry)
    if any(needs[1:]):
        gradient_of_kernels(x, kernels, grad_y, geometry)
    return (grad_x, *kernels.gradients())


def forward_given(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """A kernel for each position, (H', W', F, C / groups, kh, kw)."""
    y = output_like(x, weight.shape[2], geometry)
    multiply(x, GivenKernels(weight, geometry), geometry, y)
    return y


def backward_given(
    x: Tensor, weight: Tensor, grad_y: Tensor, geometry: Geometry, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of ``forward_given`` that are needed."""
    kernels = GivenKernels(weight, geometry, needs[1])
    grad_x = gradient_of_input(x, kernels, grad_y, geometry) if needs[0] else None
    if needs[1]:
        gradient_of_kernels(x, kernels, grad_y, geometry)
    return grad_x, kernels.gradient
