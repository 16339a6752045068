"""Forward and backward, from tensors to the compiled routines."""

from functools import lru_cache
from itertools import pairwise

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
    tiling = _tiling(bases, _has_pairs(x), transposed=False)
    table = _by_position(weights, geometry)
    return _sum_over_taps(x, tiling, _laid_out(bases, tiling, False), table, geometry, False)


def backward_input(bases: Tensor, weights: Tensor, grad_y: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of ``x``, channels last: an input gathers from the outputs that read it."""
    tiling = _tiling(bases, _has_pairs(grad_y), transposed=True)
    table = _by_position(weights, geometry)
    return _sum_over_taps(grad_y, tiling, _laid_out(bases, tiling, True), table, geometry, True)


def backward_kernels(
    x: Tensor, bases: Tensor, weights: Tensor, grad_y: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """The gradients of ``bases`` and ``weights``."""
    tiling = _tiling(bases, pairs=False, transposed=False)
    laid_out = _laid_out(bases, tiling, transposed=False)
    table = _by_position(weights, geometry)
    parts = threads.parts(geometry.output_size[0])
    gradients = torch.zeros(len(parts), *laid_out.shape)
    table_gradient = torch.zeros_like(table)
    _sum_kernels(x, grad_y, tiling, laid_out, gradients, (table, table_gradient), geometry)
    gradient = tiling.take_back(gradients.sum(0)).unflatten(1, geometry.kernel_size)  # type: ignore[no-untyped-call]
    table_gradient = table_gradient.t().reshape(len(bases), *geometry.output_size)
    return (
        gradient.permute(0, 4, 3, 1, 2).to(bases.dtype),
        table_gradient.sum_to_size(weights.shape).to(weights.dtype),
    )


def forward_given(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The output for a kernel given at each position."""
    tiling = _tiling(weight[0], _has_pairs(x), transposed=False)
    return _sum_over_taps(x, tiling, None, weight.detach().contiguous(), geometry, False)


def backward_input_given(weight: Tensor, grad_y: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of ``x`` for given kernels."""
    tiling = _tiling(weight[0], _has_pairs(grad_y), transposed=True)
    return _sum_over_taps(grad_y, tiling, None, weight.detach().contiguous(), geometry, True)


def backward_kernels_given(x: Tensor, weight: Tensor, grad_y: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of given kernels."""
    tiling = _tiling(weight[0], pairs=False, transposed=False)
    gradient = torch.empty_like(weight, memory_format=torch.contiguous_format)
    table = torch.zeros(geometry.positions, 1)
    _sum_kernels(x, grad_y, tiling, None, gradient, (table, table), geometry)
    return gradient


def _sum_over_taps(
    x: Tensor,
    tiling: Tiling,
    bases: Tensor | None,
    weights: Tensor,
    geometry: Geometry,
    transposed: bool,
) -> Tensor:
    """The convolution, or the transposed one that is its derivative in the input.

    ``bases`` are laid out and ``weights`` one row a position, or else ``weights`` are kernels.
    """
    x = _channels_last(x)
    rows, columns = _tables(geometry, transposed)
    rank = None if bases is None else len(bases)
    plan = _plan(tiling, geometry, rank, x.element_size(), tiling.pairs, transposed)
    size = (plan.target_height, plan.target_width)
    result = torch.empty(
        len(x), tiling.target, *size, dtype=x.dtype, memory_format=torch.channels_last
    )

    def work(_part: int, first: int, last: int) -> None:
        for share in _shares(plan, len(x), first, last):
            scratch = torch.zeros(sum_buffers(plan, share.images).total, dtype=torch.uint8)
            sum_over_taps(
                plan,
                x.data_ptr(),
                result.data_ptr(),
                0 if bases is None else bases.data_ptr(),
                weights.data_ptr(),
                rows,
                columns,
                scratch.data_ptr(),
                share,
            )

    threads.run(work, threads.parts(size[0]))
    return result


def _sum_kernels(
    x: Tensor,
    grad_y: Tensor,
    tiling: Tiling,
    bases: Tensor | None,
    gradients: Tensor,
    tables: tuple[Tensor, Tensor],
    geometry: Geometry,
) -> None:
    """Adds to ``gradients`` of the bases, one for each thread, and to the second of the ``tables``.

    Without ``bases``, ``gradients`` are those of given kernels, and the tables not used.
    """
    x, grad_y = _channels_last(x), _channels_last(grad_y)
    rows, columns = _tables(geometry, transposed=False)
    rank = None if bases is None else len(bases)
    plan = _plan(tiling, geometry, rank, x.element_size(), _has_pairs(x), along_batch=True)

    def work(part: int, first: int, last: int) -> None:
        for share in _shares(plan, len(x), first, last):
            scratch = torch.zeros(gradient_buffers(plan, share.images).total, dtype=torch.uint8)
            sum_kernel_gradients(
                plan,
                x.data_ptr(),
                grad_y.data_ptr(),
                0 if bases is None else bases.data_ptr(),
                (gradients if bases is None else gradients[part]).data_ptr(),
                tables[0].numpy(),
                tables[1].numpy(),
                rows,
                columns,
                scratch.data_ptr(),
                share,
            )

    threads.run(work, threads.parts(geometry.output_size[0]))


def _tiling(bases: Tensor, pairs: bool, transposed: bool) -> Tiling:
    """The layout of (..., F, C, kh, kw)."""
    targets, sources, height, width = bases.shape[-4:]
    channels = (targets, sources) if transposed else (sources, targets)
    return Tiling(height * width, *channels, pairs)


def _laid_out(bases: Tensor, tiling: Tiling, transposed: bool) -> Tensor:
    axes = (0, 3, 4, 1, 2) if transposed else (0, 3, 4, 2, 1)
    return tiling.lay_out(bases.detach().permute(axes).flatten(1, 2))


@lru_cache
def _plan(
    tiling: Tiling,
    geometry: Geometry,
    rank: int | None,
    itemsize: int,
    pairs: bool,
    transposed: bool = False,
    along_batch: bool = False,
) -> Plan:
    """The plan for so many bases, or for given kernels."""
    ends = (geometry.output_size, geometry.input_size)
    return Plan.of(
        tiling,
        (ends[not transposed], ends[transposed], geometry.kernel_size),
        rank or 1,
        _tables(geometry, transposed)[0],
        itemsize,
        pairs,
        along_batch,
        by_source=transposed,
        given=rank is None,
    )


@lru_cache
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


def _shares(plan: Plan, images: int, first_row: int, last_row: int) -> list[Share]:
    """Some rows of all images, in parts of nearly as many images.

    Given kernels are not mixed again for each part, but read, and their gradients written: one
    part.
    """
    parts = 1 if plan.given else -(-images // _IMAGES)
    bounds = [images * part // parts for part in range(parts + 1)]
    return [Share(first, last - first, first_row, last_row) for first, last in pairwise(bounds)]
