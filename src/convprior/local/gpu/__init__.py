"""A fused GPU path for low-rank and full local convolution, in Triton.

Kernels first: a program mixes the kernels of a few positions and multiplies at once, so neither
the K convolutions nor the kernels of all positions go through memory.

Bounds, not measurements, in units of one convolution (N P taps C F multiply-adds, P positions); the
example is N = 128, C = F = 64, 32 x 32, 3 x 3, K = 8 in bfloat16:

* Products: 1 forward, 3 with the backward pass, at any rank, as for a convolution.
* Mixing: K / N forward, once more for the input's gradient and twice for the others', in float32
  outside the tensor cores. In the example 0.3 G multiply-adds a time beside 4.8 G of products.
* Traffic of the level-two cache, forward: the input once for each tap (151 MB, as convolutions by
  implicit GEMM), the bases once for each block of 4 positions (K P / 4 kernels, 151 MB; one
  position at a time would read 604 MB). Memory itself sees input and output (34 MB).
* The same of the gradients of bases and weights: for each tap the input once for each block of 32
  output channels (302 MB), the output's gradient once for each block of 64 input channels
  (151 MB); and in memory partial sums for the bases, about 30 on 132 multiprocessors (35 MB,
  written and read).

So the time should not grow with the rank while the bases' part stays below the input's: up to
about K = 8. Beyond, it grows with K / 4 times the size of the kernels of all positions.

The names mirror the compiled CPU path's.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

from convprior.local.geometry import Geometry

# Fewer channels in a group than half a tensor-core tile: mostly zeros would be multiplied.
_FEWEST_CHANNELS = 8
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def why_not(x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> str | None:
    """Why this path cannot compute it, or should not, or None if it can."""
    if weights.dim() != 3:
        return "each sample has combining weights of its own"
    if weights.device != x.device:
        return f"input and combining weights are on {x.device} and {weights.device}"
    return _why_not(x, bases, geometry)


def why_not_given(x: Tensor, weight: Tensor, geometry: Geometry) -> str | None:
    """The same with a kernel for each position, (H', W', F, C / groups, kh, kw)."""
    return _why_not(x, weight, geometry)


def _why_not(x: Tensor, kernels: Tensor, geometry: Geometry) -> str | None:
    if x.device.type != "cuda" or torch.version.cuda is None:
        return f"the tensors are on {x.device}, not on an NVIDIA GPU"
    if kernels.device != x.device:
        return f"input and kernels are on {x.device} and {kernels.device}"
    if find_spec("triton") is None:
        return "the package 'triton' is not installed: pip install triton"
    if torch.cuda.get_device_capability(x.device) < (8, 0):
        return f"{torch.cuda.get_device_name(x.device)} is older than Ampere"
    if x.dtype not in _DTYPES or x.dtype != kernels.dtype:
        return f"input and kernels are {x.dtype} and {kernels.dtype}, not both one of {_DTYPES}"
    filters, channels = kernels.shape[-4] // geometry.groups, kernels.shape[-3]
    if geometry.groups > 1 and min(filters, channels) < _FEWEST_CHANNELS:
        return f"a group has {channels} input and {filters} output channels, below 8"
    return None


def available(x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> bool:
    """Whether this path can compute it."""
    return why_not(x, bases, weights, geometry) is None


def available_given(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether this path can compute it, with a kernel for each position."""
    return why_not_given(x, weight, geometry) is None


def forward(x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> Tensor:
    """``y[n, :, p] = sum_k w_k(p) (x conv B_k)[n, :, p]``.

    A position's kernel is mixed in float32 and rounded once to the dtype of ``x``; sums are
    float32. In float32 the products are TF32 where convolutions of torch are
    (``torch.backends.cudnn``).

    Args:
        x: (N, C, H, W), any strides.
        bases: (K, F, C / groups, kh, kw), of the same dtype.
        weights: (K, H', W'), or (K, H', 1) or (K, 1, W').
        geometry: of the convolution.

    Returns:
        (N, F, H', W') in the memory format of ``x``.
    """
    from convprior.local.gpu import passes

    return passes.forward(x, bases, weights, geometry)


def backward(
    x: Tensor,
    bases: Tensor,
    weights: Tensor,
    grad_y: Tensor,
    geometry: Geometry,
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of ``x``, ``bases`` and ``weights`` that are needed.

    Sums over positions are made in a fixed order: no atomics.
    """
    from convprior.local.gpu import passes

    dx = passes.backward_input(x, bases, weights, grad_y, geometry) if needs[0] else None
    dbases, dweights = None, None
    if needs[1] or needs[2]:
        dbases, dweights = passes.backward_mixture(x, bases, weights, grad_y, geometry)
    return dx, dbases if needs[1] else None, dweights if needs[2] else None


def forward_given(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The same with a kernel for each position.

    Args:
        x: (N, C, H, W), any strides.
        weight: (H', W', F, C / groups, kh, kw), of the same dtype; a rearranged copy is made.
        geometry: of the convolution.
    """
    from convprior.local.gpu import passes

    return passes.forward(x, weight, None, geometry)


def backward_given(
    x: Tensor,
    weight: Tensor,
    grad_y: Tensor,
    geometry: Geometry,
    needs: tuple[bool, bool] = (True, True),
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of ``x`` and ``weight`` that are needed."""
    from convprior.local.gpu import passes

    dx = passes.backward_input(x, weight, None, grad_y, geometry) if needs[0] else None
    dweight = passes.backward_kernels(x, weight, grad_y, geometry) if needs[1] else None
    return dx, dweight
