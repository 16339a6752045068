"""Forward and backward, from tensors to the compiled routines."""

from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from convprior.local.engine import threads
from convprior.local.engine.kernel_gradients import gradient_buffers, sum_kernel_gradients
from convprior.local.engine.microkernel import HAS_PAIRS
from convprior.local.engine.plan import Plan, Share, Table, input_table, output_table
from convprior.local.engine.sums import sum_buffers, sum_over_taps
from convprior.local.engine.tiling import Tiling
from convprior.local.geometry import Geometry

_IMAGES = 160  # at once: enough to hide mixing, few enough for the panels to stay in the cache


def forward(x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> Tensor:
    """The output, channels last."""
    return _sum_over_taps(x, bases, weights, geometry, transposed=False)


def backward_input(bases: Tensor, weights: Tensor, grad_y: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of ``x``, channels last: an input gathers from the outputs that read it."""
    return _sum_over_taps(grad_y, bases, weights, geometry, transposed=True)


def backward_kernels(
    x: Tensor, bases: Tensor, weights: Tensor, grad_y: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """The gradients of ``bases`` and ``weights``."""
    x, grad_y = _channels_last(x), _channels_last(grad_y)
    rank, outputs, inputs = bases.shape[:3]
    tiling = Tiling(prod(geometry.kernel_size), inputs, outputs, pairs=False)
    laid_out = tiling.lay_out(bases.detach().permute(0, 3, 4, 2, 1).flatten(1, 2))
    table = _by_position(weights, geometry)
    rows, columns = _tables(geometry, transposed=False)
    sizes = (geometry.input_size, geometry.output_size, geometry.kernel_size)
    plan = Plan.of(
        tiling, sizes, rank, rows, x.element_size(), pairs=_has_pairs(x), along_batch=True
    )
    parts = threads.parts(geometry.output_size[0])
    bases_gradients = torch.zeros(len(parts), *laid_out.shape)
    table_gradient = torch.zeros_like(table)

    def work(part: int, first: int, last: int) -> None:
        for share in _shares(len(x), first, last):
            scratch = torch.zeros(gradient_buffers(plan, share.images).total, dtype=torch.uint8)
            sum_kernel_gradients(
                plan,
                x.data_ptr(),
                grad_y.data_ptr(),
                laid_out.data_ptr(),
                bases_gradients[part].data_ptr(),
                table.numpy(),
                table_gradient.numpy(),
                rows,
                columns,
                scratch.data_ptr(),
                share,
            )

    threads.run(work, parts)
    gradient = tiling.take_back(bases_gradients.sum(0))
    gradient = gradient.reshape(rank, *geometry.kernel_size, inputs, outputs)
    table_gradient = table_gradient.t().reshape(rank, *geometry.output_size)
    return (
        gradient.permute(0, 4, 3, 1, 2).to(bases.dtype),
        table_gradient.sum_to_size(weights.shape).to(weights.dtype),
    )


def _sum_over_taps(
    x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry, transposed: bool
) -> Tensor:
    """The convolution, or the transposed one that is its derivative in the input."""
    x = _channels_last(x)
    axes = (0, 3, 4, 1, 2) if transposed else (0, 3, 4, 2, 1)
    kernels = bases.detach().permute(axes).flatten(1, 2)
    rank, taps, source, target = kernels.shape
    tiling = Tiling(taps, source, target, _has_pairs(x))
    laid_out = tiling.lay_out(kernels)
    table = _by_position(weights, geometry)
    rows, columns = _tables(geometry, transposed)
    ends = (geometry.output_size, geometry.input_size)
    size = ends[transposed]
    plan = Plan.of(
        tiling,
        (ends[not transposed], size, geometry.kernel_size),
        rank,
        rows,
        x.element_size(),
        pairs=tiling.pairs,
        by_source=transposed,
    )
    result = torch.empty(len(x), target, *size, dtype=x.dtype, memory_format=torch.channels_last)

    def work(_part: int, first: int, last: int) -> None:
        for share in _shares(len(x), first, last):
            scratch = torch.zeros(sum_buffers(plan, share.images).total, dtype=torch.uint8)
            sum_over_taps(
                plan,
                x.data_ptr(),
                result.data_ptr(),
                laid_out.data_ptr(),
                table.data_ptr(),
                rows,
                columns,
                scratch.data_ptr(),
                share,
            )

    threads.run(work, threads.parts(size[0]))
    return result


def _tables(geometry: Geometry, transposed: bool) -> tuple[Table, Table]:
    """Which source each target reads, along rows and along columns."""
    make = output_table if transposed else input_table
    rows, columns = (
        make(
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


def _by_position(weights: Tensor, geometry: Geometry) -> Tensor:
    """(K, H', W'), or what broadcasts to it, as (positions, K) in float32."""
    weights = weights.detach().float().expand(-1, *geometry.output_size)
    return weights.flatten(1).t().contiguous()


def _shares(images: int, first_row: int, last_row: int) -> list[Share]:
    """Some rows of all images, in parts of nearly as many images."""
    parts = -(-images // _IMAGES)
    bounds = [images * part // parts for part in range(parts + 1)]
    return [Share(first, last - first, first_row, last_row) for first, last in pairwise(bounds)]
