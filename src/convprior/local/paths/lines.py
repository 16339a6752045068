"""Weights of rows, or of columns, alone: H' or W' kernels, each for a line of positions.

Kernels first with nothing to mix but a kernel a line, so about one convolution even for one image.
"""

from dataclasses import replace

from torch import Tensor

from convprior.local.geometry import Geometry
from convprior.local.paths import kernels_first
from convprior.local.paths.kernels import MixedKernels
from convprior.local.paths.kernels_first import Gradients, Needs
from convprior.local.paths.products import multiply, output_like


def forward(x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> Tensor:
    """``sum_k w_k * conv(x, B_k)``, for weights (K, H', 1) or (K, 1, W')."""
    y = output_like(x, bases.shape[1], geometry)
    if weights.shape[2] == 1:
        multiply(x, MixedKernels(bases, weights, geometry), geometry, y)
    else:
        turned = _turned(geometry)
        multiply(x.mT, MixedKernels(bases.mT, weights.mT, turned), turned, y.mT)
    return y


def backward(
    x: Tensor, bases: Tensor, weights: Tensor, grad_y: Tensor, geometry: Geometry, needs: Needs
) -> Gradients:
    """The gradients of ``forward`` that are needed."""
    if weights.shape[2] != 1:
        turned = _turned(geometry)
        found = backward(x.mT, bases.mT, weights.mT, grad_y.mT, turned, needs)
        grad_x, grad_bases, grad_weights = (None if grad is None else grad.mT for grad in found)
        return grad_x, grad_bases, grad_weights
    return kernels_first.backward(x, bases, weights, grad_y, geometry, needs)


def _turned(geometry: Geometry) -> Geometry:
    """The same on transposed images."""
    top, bottom, left, right = geometry.padding
    return replace(
        geometry,
        input_size=geometry.input_size[::-1],
        kernel_size=geometry.kernel_size[::-1],
        stride=geometry.stride[::-1],
        padding=(left, right, top, bottom),
        dilation=geometry.dilation[::-1],
    )
