"""Combining weights of every sample's own: forward and backward, from tensors to images.

Forward, the gradient of the bases, and those of input and weights together take K convolutions
each, against one of a layer that all samples share.
"""

from functools import lru_cache

import torch
from torch import Tensor

from convprior.local.engine import threads
from convprior.local.engine.image_folding import fold_image, folding_places
from convprior.local.engine.image_forward import forward_image, forward_places
from convprior.local.engine.image_kernels import add_kernel_gradients, kernels_places
from convprior.local.engine.images import Shape
from convprior.local.engine.microkernel import HAS_PAIRS, product
from convprior.local.engine.plan import Table, input_table
from convprior.local.engine.tiling import Tiling
from convprior.local.engine.vectors import LANES
from convprior.local.geometry import Geometry

Needs = tuple[bool, bool, bool]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def forward(x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> Tensor:
    """The output, channels last, for weights (N, K, H', W')."""
    x, weights = _channels_last(x), _floats(weights)
    tiling = _tiling(bases, _has_pairs(x), transposed=False)
    laid_out = _laid_out(bases, tiling, transposed=False)
    shape = _shape(tiling, geometry, len(bases), x.element_size(), tiling.pairs)
    rows, _ = _tables(geometry)
    size = (len(x), bases.shape[1], *geometry.output_size)
    y = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)

    def work(_part: int, first: int, last: int) -> None:
        scratch = torch.zeros(forward_places(shape).total, dtype=torch.uint8)
        for n in range(first, last):
            forward_image(
                shape,
                x[n].data_ptr(),
                laid_out.data_ptr(),
                weights[n].data_ptr(),
                y[n].data_ptr(),
                rows,
                scratch.data_ptr(),
            )

    threads.run(work, threads.parts(len(x)))
    return y


def backward(
    x: Tensor, bases: Tensor, weights: Tensor, grad_y: Tensor, geometry: Geometry, needs: Needs
) -> Gradients:
    """The gradients of ``x``, ``bases`` and ``weights`` that are needed."""
    grad_x, grad_bases, grad_weights = None, None, None
    if needs[1]:
        grad_bases = backward_kernels(x, bases, weights, grad_y, geometry)
    if needs[0] or needs[2]:
        grad_x, grad_weights = backward_input(x, bases, weights, grad_y, geometry)
    return grad_x if needs[0] else None, grad_bases, grad_weights if needs[2] else None


def backward_input(
    x: Tensor, bases: Tensor, weights: Tensor, grad_y: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """The gradients of ``x``, channels last, and of ``weights``."""
    x, grad_y, factors = _channels_last(x), _channels_last(grad_y), _floats(weights)
    tiling = _tiling(bases, _has_pairs(x), transposed=True)
    laid_out = _laid_out(bases, tiling, transposed=True)
    shape = _shape(tiling, geometry, len(bases), x.element_size(), tiling.pairs)
    rows, columns = _tables(geometry)
    grad_x, grad_weights = torch.empty_like(x), torch.empty_like(factors)

    def work(_part: int, first: int, last: int) -> None:
        scratch = torch.zeros(folding_places(shape).total, dtype=torch.uint8)
        for n in range(first, last):
            fold_image(
                shape,
                x[n].data_ptr(),
                grad_y[n].data_ptr(),
                laid_out.data_ptr(),
                factors[n].data_ptr(),
                grad_x[n].data_ptr(),
                grad_weights[n].data_ptr(),
                rows,
                columns,
                scratch.data_ptr(),
            )

    threads.run(work, threads.parts(len(x)))
    return grad_x, grad_weights.to(weights.dtype)


def backward_kernels(
    x: Tensor, bases: Tensor, weights: Tensor, grad_y: Tensor, geometry: Geometry
) -> Tensor:
    """The gradient of ``bases``."""
    x, grad_y, weights = _channels_last(x), _channels_last(grad_y), _floats(weights)
    tiling = _tiling(bases, pairs=False, transposed=False)
    shape = _shape(tiling, geometry, len(bases), x.element_size(), _has_pairs(x))
    rows, _ = _tables(geometry)
    parts = threads.parts(len(x))
    gradients = torch.zeros(len(parts), len(bases), tiling.rows * tiling.vectors * LANES)

    def work(part: int, first: int, last: int) -> None:
        scratch = torch.zeros(kernels_places(shape).total, dtype=torch.uint8)
        for n in range(first, last):
            add_kernel_gradients(
                shape,
                x[n].data_ptr(),
                grad_y[n].data_ptr(),
                weights[n].data_ptr(),
                gradients[part].data_ptr(),
                rows,
                scratch.data_ptr(),
            )

    threads.run(work, parts)
    gradient = torch.empty(bases.shape, dtype=bases.dtype)
    tiling.take_back(gradients.sum(0), gradient.flatten(3).permute(0, 3, 2, 1))
    return gradient


def _tiling(bases: Tensor, pairs: bool, transposed: bool) -> Tiling:
    """From inputs to outputs, or back."""
    filters, channels, height, width = bases.shape[1:]
    ends = (filters, channels) if transposed else (channels, filters)
    return Tiling(height * width, *ends, pairs)


def _laid_out(bases: Tensor, tiling: Tiling, transposed: bool) -> Tensor:
    """As ``Tiling`` has them, pairs as pairs of bfloat16."""
    axes = (0, 3, 1, 2) if transposed else (0, 3, 2, 1)
    dtype = torch.bfloat16 if tiling.pairs else torch.float32
    return tiling.lay_out(bases.detach().flatten(3).permute(axes), dtype)


@lru_cache
def _shape(tiling: Tiling, geometry: Geometry, rank: int, itemsize: int, pairs: bool) -> Shape:
    left, right = geometry.padding[2:]
    return Shape(
        rank,
        tiling.source,
        tiling.target,
        *geometry.input_size,
        *geometry.output_size,
        *geometry.kernel_size,
        geometry.stride[1],
        geometry.dilation[1],
        left,
        left + geometry.input_size[1] + right,
        itemsize,
        pairs,
        product(pairs).address,
        tiling.words,
        tiling.rows,
        tiling.vectors,
        tiling.panels,
    )


@lru_cache
def _tables(geometry: Geometry) -> tuple[Table, Table]:
    """Which input an output's tap reads, along rows and along columns."""
    rows, columns = (
        input_table(
            geometry.input_size[axis],
            geometry.output_size[axis],
            geometry.kernel_size[axis],
            geometry.stride[axis],
            geometry.padding[2 * axis],
            geometry.dilation[axis],
        )
        for axis in (0, 1)
    )
    return rows, columns


def _has_pairs(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and HAS_PAIRS


def _channels_last(x: Tensor) -> Tensor:
    return x.detach().contiguous(memory_format=torch.channels_last)


def _floats(weights: Tensor) -> Tensor:
    return weights.detach().float().contiguous()
