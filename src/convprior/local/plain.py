"""The definitions in ordinary differentiable operations: right everywhere, fast nowhere.

Tracing, transforms and second derivatives go through these; the faster orders of evaluation are
checked against them.
"""

import torch
from torch import Tensor, nn

from convprior.local.geometry import Geometry


def mix_outputs(x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> Tensor:
    """``y = sum_k w_k * conv(x, B_k)``: K convolutions, mixed position by position.

    Args:
        x: (N, C, H, W).
        bases: (K, F, C / groups, kh, kw), in the dtype of ``x``.
        weights: (K, H', W'), with 1 for H' or W' where they do not depend on it, or
            (N, K, H', W'); may be more precise than ``x``, which the sum then is too.
        geometry: of the convolution.

    Returns:
        (N, F, H', W') in the dtype of ``x``.
    """
    x, padding = _padded(x, geometry)
    total: Tensor | None = None
    for kernel, weight in zip(bases.unbind(0), weights.unbind(-3), strict=True):
        y = nn.functional.conv2d(
            x, kernel, None, geometry.stride, padding, geometry.dilation, geometry.groups
        )
        part = y * (weight.unsqueeze(1) if weight.dim() == 3 else weight)
        total = part if total is None else total + part
    assert total is not None
    return total.to(x.dtype)


def gather_kernels(bases: Tensor, weights: Tensor) -> Tensor:
    """The kernel of each position, ``W(i, j) = sum_k w_k(i, j) B_k``.

    Args:
        bases: (K, F, C / groups, kh, kw).
        weights: (K, H', W').

    Returns:
        (H', W', F, C / groups, kh, kw) in the dtype of ``bases``.
    """
    mixed = torch.einsum("khw,kfcij->hwfcij", weights, bases.to(weights.dtype))
    return mixed.to(bases.dtype)


def local_plain(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """A convolution with a kernel for each position: patches, then one product a position.

    Args:
        x: (N, C, H, W).
        weight: (H', W', F, C / groups, kh, kw), in the dtype of ``x``.
        geometry: of the convolution.

    Returns:
        (N, F, H', W').
    """
    x, padding = _padded(x, geometry)
    n, groups = x.shape[0], geometry.groups
    rows, columns, filters = weight.shape[:3]
    patches = nn.functional.unfold(
        x, geometry.kernel_size, geometry.dilation, padding, geometry.stride
    )
    seen = patches.shape[1] // groups
    patches = patches.reshape(n, groups, seen, rows * columns).permute(3, 1, 2, 0)
    kernels = weight.reshape(rows * columns, groups, filters // groups, seen)
    y = kernels @ patches  # (positions, groups, F / groups, N)
    return y.permute(3, 1, 2, 0).reshape(n, filters, rows, columns)


def _padded(x: Tensor, geometry: Geometry) -> tuple[Tensor, tuple[int, int]]:
    """Zeros that a symmetric padding cannot express are added here."""
    top, bottom, left, right = geometry.padding
    if (top, left) == (bottom, right):
        return x, (top, left)
    return nn.functional.pad(x, (left, right, top, bottom)), (0, 0)
