"""A compiled CPU path for low-rank local convolution, at about the cost of one convolution.

Where every sample has combining weights of its own it costs that of K.

Needs Numba (``pip install 'convprior[kernels]'``). The names here mirror the GPU path's.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

from convprior.local.geometry import Geometry

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def why_not(x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> str | None:
    """Why this path cannot compute it, or None if it can."""
    if find_spec("numba") is None:
        return "the package 'numba' is not installed: pip install 'convprior[kernels]'"
    if any(tensor.device.type != "cpu" for tensor in (x, bases, weights)):
        return f"the tensors are on {x.device}, not on the CPU"
    if x.dtype not in (torch.float32, torch.bfloat16) or x.dtype != bases.dtype:
        return f"input and bases are {x.dtype} and {bases.dtype}, not both float32 or bfloat16"
    if geometry.groups != 1:
        return f"groups is {geometry.groups}, not 1"
    return None


def available(x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> bool:
    """Whether this path can compute it."""
    return why_not(x, bases, weights, geometry) is None


def forward(x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> Tensor:
    """``y[n, :, p] = sum_k w_k(p) (x conv B_k)[n, :, p]``.

    Args:
        x: (N, C, H, W), any memory format.
        bases: (K, F, C, kh, kw), of the same dtype.
        weights: (K, H', W'), or (K, H', 1) or (K, 1, W'), or (N, K, H', W').
        geometry: with groups 1.

    Returns:
        (N, F, H', W'), channels last. In bfloat16 a position's kernel is mixed in float32 and
        rounded once; sums are float32.
    """
    from convprior.local.engine import passes, per_sample

    if x.numel() == 0:
        return x.new_zeros(len(x), bases.shape[1], *geometry.output_size)
    if weights.dim() == 4:
        return per_sample.forward(x, bases, weights, geometry)
    return passes.forward(x, bases, weights, geometry)


def backward(
    x: Tensor,
    bases: Tensor,
    weights: Tensor,
    grad_y: Tensor,
    geometry: Geometry,
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> Gradients:
    """The gradients of ``x`` (channels last), ``bases`` and ``weights`` that are needed.

    Sums are float32; with the same number of threads the result is the same to the last bit.
    """
    from convprior.local.engine import passes, per_sample

    if x.numel() == 0:
        inputs = (x, bases, weights)
        dx, dbases, dweights = (
            torch.zeros_like(tensor) if need else None
            for tensor, need in zip(inputs, needs, strict=True)
        )
        return dx, dbases, dweights
    if weights.dim() == 4:
        return per_sample.backward(x, bases, weights, grad_y, geometry, needs)
    dx = passes.backward_input(bases, weights, grad_y, geometry) if needs[0] else None
    dbases, dweights = None, None
    if needs[1] or needs[2]:
        dbases, dweights = passes.backward_kernels(x, bases, weights, grad_y, geometry)
    return dx, dbases if needs[1] else None, dweights if needs[2] else None


def why_not_given(x: Tensor, weight: Tensor, geometry: Geometry) -> str | None:
    """Why this path cannot compute a layer with a kernel given at each position, or None."""
    return why_not(x, weight[0], weight.new_empty(1, 1, 1), geometry)


def forward_given(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """A convolution with a kernel for each position.

    Args:
        x: (N, C, H, W), any memory format.
        weight: (H', W', F, C, kh, kw), of the same dtype.
        geometry: with groups 1.

    Returns:
        (N, F, H', W'), channels last.
    """
    from convprior.local.engine import passes

    if x.numel() == 0:
        return x.new_zeros(len(x), weight.shape[2], *geometry.output_size)
    return passes.forward_given(x, weight, geometry)


def backward_given(
    x: Tensor,
    weight: Tensor,
    grad_y: Tensor,
    geometry: Geometry,
    needs: tuple[bool, bool] = (True, True),
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of ``x`` (channels last) and ``weight`` that are needed."""
    from convprior.local.engine import passes

    if x.numel() == 0:
        return (
            torch.zeros_like(x) if needs[0] else None,
            torch.zeros_like(weight) if needs[1] else None,
        )
    return (
        passes.backward_input_given(weight, grad_y, geometry) if needs[0] else None,
        passes.backward_kernels_given(x, weight, grad_y, geometry) if needs[1] else None,
    )
