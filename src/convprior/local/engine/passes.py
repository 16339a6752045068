"""Forward and backward of low-rank local convolution, from tensors to the compiled routines."""

from math import prod

import torch
from torch import Tensor

from convprior.local.engine import threads
from convprior.local.engine.kernel_gradients import sum_kernel_gradients
from convprior.local.engine.microkernel import HAS_PAIRS
from convprior.local.engine.plan import Plan, Table, input_table, output_table, slots_for
from convprior.local.engine.sums import sum_over_taps
from convprior.local.engine.tiling import Tiling
from convprior.local.geometry import Geometry

POSITIONS = 4  # positions that share a pass over the bases
IMAGES = 160  # at a time: their panels of a few positions fit into a second-level cache


def forward(x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> Tensor:
    """``y[n, :, p] = sum_k w_k(p) (x conv B_k)[n, :, p]``, channels last."""
    kernels = bases.detach().permute(0, 3, 4, 2, 1).flatten(1, 2)
    rows, columns = (input_table(*axis) for axis in _axes(geometry))
    tiling = Tiling(prod(geometry.kernel_size), bases.shape[2], bases.shape[1], _pairs(x))
    return _sum(x, geometry.output_size, kernels, weights, tiling, geometry, rows, columns, False)


def backward_input(bases: Tensor, weights: Tensor, grad_y: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of ``x``, channels last: each input gathers from the outputs that read it."""
    kernels = bases.detach().permute(0, 3, 4, 1, 2).flatten(1, 2)
    rows, columns = (output_table(*axis) for axis in _axes(geometry))
    tiling = Tiling(prod(geometry.kernel_size), bases.shape[1], bases.shape[2], _pairs(grad_y))
    return _sum(
        grad_y, geometry.input_size, kernels, weights, tiling, geometry, rows, columns, True
    )


def backward_kernels(
    x: Tensor, bases: Tensor, weights: Tensor, grad_y: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """The gradients of ``bases`` and ``weights``."""
    x, grad_y = _channels_last(x), _channels_last(grad_y)
    rank, target, source = bases.shape[:3]
    tiling = Tiling(prod(geometry.kernel_size), source, target, pairs=False)
    kernels = tiling.lay_out(bases.detach().permute(0, 3, 4, 2, 1).flatten(1, 2))
    table = _position_weights(weights, geometry)
    rows, columns = (input_table(*axis) for axis in _axes(geometry))
    ranges = threads.parts(geometry.output_size[0])
    gradients = torch.zeros(len(ranges), *kernels.shape)
    table_gradient = torch.zeros_like(table)
    plan = Plan.of(
        tiling,
        geometry.input_size,
        geometry.output_size,
        geometry.kernel_size,
        rank,
        x.element_size(),
        slots_for(rows),
        POSITIONS,
        pairs=_pairs(x),
    )
    zeros = torch.zeros(max(source, target), dtype=x.dtype)

    def work(index: int, first: int, last: int) -> None:
        for first_image, images in _batches(len(x)):
            steps = (images + 1) // 2 * 2
            scratch = _scratch(
                plan.slots * plan.source_width * (steps * source * 4 + 64),
                POSITIONS * (steps * plan.vectors * 64 + 64),
                POSITIONS * (plan.unit_rows * 256 + 128),
            )
            sum_kernel_gradients(
                plan,
                x.data_ptr(),
                grad_y.data_ptr(),
                kernels.data_ptr(),
                table.numpy(),
                gradients[index].data_ptr(),
                table_gradient.numpy(),
                rows,
                columns,
                scratch.data_ptr(),
                zeros.data_ptr(),
                first_image,
                images,
                first,
                last,
            )

    threads.run(work, ranges)
    summed = tiling.take_back(gradients.sum(0)).unflatten(1, geometry.kernel_size)
    table_gradient = table_gradient.t().reshape(rank, *geometry.output_size)
    return (
        summed.permute(0, 4, 3, 1, 2).to(bases.dtype),
        table_gradient.sum_to_size(weights.shape).to(weights.dtype),
    )


def _sum(
    x: Tensor,
    size: tuple[int, int],
    kernels: Tensor,
    weights: Tensor,
    tiling: Tiling,
    geometry: Geometry,
    rows: Table,
    columns: Table,
    by_source: bool,
) -> Tensor:
    """The sum over taps of ``x`` at every position of ``size``."""
    x = _channels_last(x)
    result = torch.empty(
        len(x), tiling.target, *size, dtype=x.dtype, memory_format=torch.channels_last
    )
    laid_out = tiling.lay_out(kernels)
    table = _position_weights(weights, geometry)
    plan = Plan.of(
        tiling,
        (x.shape[2], x.shape[3]),
        size,
        geometry.kernel_size,
        len(kernels),
        x.element_size(),
        slots_for(rows),
        POSITIONS,
        pairs=tiling.pairs,
        by_source=by_source,
    )

    def work(index: int, first: int, last: int) -> None:
        for first_image, images in _batches(len(x)):
            scratch = _scratch(
                plan.slots * plan.source_width * (images * plan.words * 4 + 64),
                POSITIONS * (images * plan.vectors * 64 + 64),
                POSITIONS * (plan.unit_rows * 256 + 128),
            )
            sum_over_taps(
                plan,
                x.data_ptr(),
                result.data_ptr(),
                laid_out.data_ptr(),
                table.data_ptr(),
                rows,
                columns,
                scratch.data_ptr(),
                first_image,
                images,
                first,
                last,
            )

    threads.run(work, threads.parts(size[0]))
    return result


def _axes(geometry: Geometry) -> list[tuple[int, int, int, int, int, int]]:
    """(inputs, outputs, taps, stride, padding before, dilation) of rows and of columns."""
    return [
        (
            geometry.input_size[axis],
            geometry.output_size[axis],
            geometry.kernel_size[axis],
            geometry.stride[axis],
            geometry.padding[2 * axis],
            geometry.dilation[axis],
        )
        for axis in (0, 1)
    ]


def _pairs(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and HAS_PAIRS


def _channels_last(x: Tensor) -> Tensor:
    return x.detach().contiguous(memory_format=torch.channels_last)


def _position_weights(weights: Tensor, geometry: Geometry) -> Tensor:
    """(K, H', W'), or broadcast to it, as (positions, K) in float32."""
    weights = weights.detach().float().expand(-1, *geometry.output_size)
    return weights.flatten(1).t().contiguous()


def _batches(images: int) -> list[tuple[int, int]]:
    """(first, count) of nearly equal parts of the batch."""
    count = -(-images // IMAGES)
    bounds = [images * part // count for part in range(count + 1)]
    return [(a, b - a) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def _scratch(*sizes: int) -> Tensor:
    return torch.zeros(sum(sizes), dtype=torch.uint8)
