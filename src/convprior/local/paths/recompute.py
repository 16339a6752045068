"""Outputs first: K convolutions, mixed and forgotten, a few samples at a time.

The order for weights that every sample has of its own, where a mixed kernel would serve a single
product, and for rank one, where there is nothing to mix. Backward convolves again rather than keep
K outputs: ``dw_k = <conv(x, B_k), dy>`` costs K convolutions, and those of ``w_k dy`` with ``B_k``
and with ``x`` 2 K, so forward and backward are 4 K against 3 of one convolution. All K bases of a
few samples are one convolution with K F outputs, which runs faster than K with F.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from convprior.local.geometry import Geometry
from convprior.local.paths.kernels import sums
from convprior.local.paths.kernels_first import Gradients, Needs
from convprior.local.paths.products import output_like

CHUNK_BYTES = 4 << 20
"""The K outputs of the samples that are convolved at once: little next to an input."""


def forward(x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> Tensor:
    """``sum_k w_k * conv(x, B_k)``, for weights of any shape."""
    y = output_like(x, bases.shape[1], geometry)
    stacked = _stacked(bases, geometry)
    for some in _chunks(y, bases.shape[0]):
        mixed = torch.einsum(
            "nhwk,nhwgkf->nhwgf",
            _factors(weights, some, y),
            _split(_convolve(x[some], stacked, geometry), bases.shape[0], geometry),
        )
        y[some].copy_(mixed.flatten(3).permute(0, 3, 1, 2))
    return y


def backward(
    x: Tensor, bases: Tensor, weights: Tensor, grad_y: Tensor, geometry: Geometry, needs: Needs
) -> Gradients:
    """The gradients of ``forward`` that are needed."""
    rank = bases.shape[0]
    grad_x = torch.empty_like(x) if needs[0] else None
    stacked = _stacked(bases, geometry)
    grad_stacked = torch.zeros_like(stacked, dtype=sums(x)) if needs[1] else None
    grad_weights = torch.zeros_like(weights) if needs[2] else None
    # What has K F channels gets no name, or it would live on beside the next one.
    for some in _chunks(grad_y, rank):
        grad = _split(grad_y[some], 1, geometry)  # (n, H', W', groups, 1, F / groups)
        if grad_weights is not None:
            found = torch.einsum(
                "nhwgkf,nhwgf->nkhw",
                _split(_convolve(x[some], stacked, geometry), rank, geometry),
                grad.squeeze(4),
            )
            part = grad_weights[some] if weights.dim() == 4 else grad_weights
            part += found.to(weights.dtype).sum_to_size(part.shape)
        if needs[0] or needs[1]:
            factors = _factors(weights, some, grad_y)[:, :, :, None, :, None]
            grad_some, grad_kernels = _back(
                (factors * grad).flatten(3).permute(0, 3, 1, 2), x[some], stacked, geometry, needs
            )
            if grad_x is not None and grad_some is not None:
                grad_x[some] = grad_some
            if grad_stacked is not None and grad_kernels is not None:
                grad_stacked += grad_kernels
    grad_bases = None
    if grad_stacked is not None:
        by_group = torch.unflatten(grad_stacked.to(bases.dtype), 0, (geometry.groups, rank, -1))
        grad_bases = by_group.transpose(0, 1).flatten(1, 2)
    return grad_x, grad_bases, grad_weights


def _chunks(y: Tensor, rank: int) -> Iterator[slice]:
    """Slices of the samples."""
    a_sample = rank * y[0].numel() * y.element_size()
    size = max(CHUNK_BYTES // a_sample, 1)
    return (slice(first, first + size) for first in range(0, y.shape[0], size))


def _stacked(bases: Tensor, geometry: Geometry) -> Tensor:
    """(groups K F / groups, C / groups, kh, kw): all bases as one convolution's kernel."""
    by_group = torch.unflatten(bases, 1, (geometry.groups, -1)).transpose(0, 1).flatten(0, 2)
    return by_group.contiguous(memory_format=torch.channels_last)


def _split(y: Tensor, rank: int, geometry: Geometry) -> Tensor:
    """(n, H', W', groups, K, F / groups)."""
    return torch.unflatten(y.permute(0, 2, 3, 1), 3, (geometry.groups, rank, -1))


def _factors(weights: Tensor, some: slice, y: Tensor) -> Tensor:
    """(n, H', W', K) in the dtype of ``y``."""
    part = weights[some] if weights.dim() == 4 else weights.unsqueeze(0)
    whole = part.expand(y[some].shape[0], -1, y.shape[2], y.shape[3])
    return whole.permute(0, 2, 3, 1).to(y.dtype)


def _convolve(x: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    padded, padding = _padded(x, geometry)
    return nn.functional.conv2d(
        padded, kernels, None, geometry.stride, padding, geometry.dilation, geometry.groups
    )


def _back(
    grad_y: Tensor, x: Tensor, kernels: Tensor, geometry: Geometry, needs: Needs
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of ``_convolve``."""
    padded, padding = _padded(x, geometry)
    grad_x, grad_kernels, _ = torch.ops.aten.convolution_backward(
        grad_y,
        padded,
        kernels,
        None,
        geometry.stride,
        padding,
        geometry.dilation,
        False,
        (0, 0),
        geometry.groups,
        (needs[0], needs[1], False),
    )
    if padded is not x and grad_x is not None:
        top, _, left, _ = geometry.padding
        grad_x = grad_x[:, :, top : top + x.shape[2], left : left + x.shape[3]]
    return grad_x, grad_kernels


def _padded(x: Tensor, geometry: Geometry) -> tuple[Tensor, tuple[int, int]]:
    """A convolution pads both sides alike; other zeros are added here."""
    top, bottom, left, right = geometry.padding
    if (top, left) == (bottom, right):
        return x, (top, left)
    return nn.functional.pad(x, (left, right, top, bottom)), (0, 0)
