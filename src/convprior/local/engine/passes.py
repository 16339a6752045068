"""Forward and backward, from tensors to the compiled routines."""

from functools import lru_cache

import torch
from torch import Tensor

from convprior.local.engine import threads
from convprior.local.engine.kernel_gradients import gradient_buffers, sum_kernel_gradients
from convprior.local.engine.microkernel import HAS_PAIRS
from convprior.local.engine.plan import Plan, Table, input_table, output_table
from convprior.local.engine.shares import shares_of
from convprior.local.engine.sums import sum_buffers, sum_over_taps
from convprior.local.engine.tiling import Tiling
from convprior.local.geometry import Geometry


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
    gradients = [torch.zeros_like(laid_out) for _ in parts]
    table_gradient = torch.zeros_like(table)
    _sum_kernels(x, grad_y, tiling, laid_out, gradients, (table, table_gradient), geometry)
    total = gradients[0]
    for gradient in gradients[1:]:
        total += gradient
    bases_gradient = torch.empty_like(bases, memory_format=torch.contiguous_format)
    tiling.take_back(total, bases_gradient.flatten(3).permute(0, 3, 2, 1))
    table_gradient = table_gradient.t().reshape(len(bases), *geometry.output_size)
    return bases_gradient, table_gradient.sum_to_size(weights.shape).to(weights.dtype)


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
    _sum_kernels(x, grad_y, tiling, None, [gradient], (table, table), geometry)
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
        for share in shares_of(plan, len(x), (first, last), columns):
            scratch = threads.scratch(sum_buffers(plan, share).total)
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
    gradients: list[Tensor],
    tables: tuple[Tensor, Tensor],
    geometry: Geometry,
) -> None:
    """Adds to ``gradients`` of the bases, one for each thread, and to the second of the ``tables``.

    Without ``bases``, the only one is that of given kernels, and the tables are not used.
    """
    x, grad_y = _channels_last(x), _channels_last(grad_y)
    rows, columns = _tables(geometry, transposed=False)
    rank = None if bases is None else len(bases)
    plan = _plan(tiling, geometry, rank, x.element_size(), _has_pairs(x), along_batch=True)

    def work(part: int, first: int, last: int) -> None:
        for share in shares_of(plan, len(x), (first, last), columns):
            scratch = threads.scratch(gradient_buffers(plan, share).total)
            sum_kernel_gradients(
                plan,
                x.data_ptr(),
                grad_y.data_ptr(),
                0 if bases is None else bases.data_ptr(),
                gradients[0 if bases is None else part].data_ptr(),
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
    axes = (0, 3, 1, 2) if transposed else (0, 3, 2, 1)
    dtype = torch.bfloat16 if tiling.pairs else torch.float32
    return tiling.lay_out(bases.detach().flatten(3).permute(axes), dtype)


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
