"""The passes of the GPU path: tensors rearranged for the kernels, and the sizes of their blocks."""

from contextlib import AbstractContextManager, nullcontext
from itertools import product

import torch
from torch import Tensor

from convprior.local.geometry import Geometry
from convprior.local.gpu.axis import Axis, backward_axes, forward_axis
from convprior.local.gpu.gather import gather
from convprior.local.gpu.gradients import kernel_gradient, mixture_gradient

# Programs a multiprocessor should find: enough to keep it busy, few enough partial sums.
_WAVES = 4
# Partial dB_k in registers: 64 float32 for each of 256 threads, as much again for the bases.
_TILE = 16384
# Ranks of one launch for the gradients; a tile of all of them must fit and be 16 x 16 at least.
_RANKS = 32


def forward(x: Tensor, kernels: Tensor, weights: Tensor | None, geometry: Geometry) -> Tensor:
    """(N, F, H', W'), from bases and weights or, without weights, a kernel for each position."""
    groups = geometry.groups
    rows, columns = forward_axis(geometry, 0), forward_axis(geometry, 1)
    filters = kernels.shape[-4]
    y = _pixels_last(x, (len(x), filters, *geometry.output_size))
    kernels = _flat(kernels, groups).transpose(-1, -2)  # inputs C, outputs F
    outputs = ((1, 0, 0), (1, 0, 0))
    _gather(y, _channels_last(x), kernels, weights, rows, columns, outputs, geometry)
    return _as_given(y, x)


def backward_input(
    x: Tensor, kernels: Tensor, weights: Tensor | None, grad_y: Tensor, geometry: Geometry
) -> Tensor:
    """dx; of ``x`` only shape, dtype and memory format count."""
    dx = _pixels_last(x, tuple(x.shape))
    grad_y = _channels_last(grad_y.to(x.dtype))
    kernels = _flat(kernels, geometry.groups)  # inputs F, outputs C
    for rows, columns in product(backward_axes(geometry, 0), backward_axes(geometry, 1)):
        sources = (
            (rows.scale, rows.shift, rows.slide),
            (columns.scale, columns.shift, columns.slide),
        )
        _gather(dx, grad_y, kernels, weights, rows, columns, sources, geometry)
    return _as_given(dx, x)


def backward_mixture(
    x: Tensor, bases: Tensor, weights: Tensor, grad_y: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """The gradients of bases and weights."""
    if x.numel() == 0:
        return torch.zeros_like(bases), torch.zeros_like(weights)
    size = geometry.output_size
    x, grad_y = _channels_last(x), _channels_last(grad_y.to(x.dtype))
    flat = _flat(bases, geometry.groups).transpose(-1, -2).contiguous()
    table = weights.float().expand(-1, *size)
    parts = [
        _mixture(x, flat[k : k + _RANKS], table[k : k + _RANKS], grad_y, geometry)
        for k in range(0, len(bases), _RANKS)
    ]
    dbases = torch.cat([part[0] for part in parts]).transpose(-1, -2)
    dweights = torch.cat([part[1] for part in parts]).reshape(-1, *size)
    return (
        _shaped(dbases, bases).to(bases.dtype),
        dweights.sum_to_size(weights.shape).to(weights.dtype),
    )


def backward_kernels(x: Tensor, weight: Tensor, grad_y: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of a kernel for each position, (H', W', F, C / groups, kh, kw)."""
    if x.numel() == 0:
        return torch.zeros_like(weight)
    groups, taps = geometry.groups, geometry.kernel_size[0] * geometry.kernel_size[1]
    x, grad_y = _channels_last(x), _channels_last(grad_y.to(x.dtype))
    inputs, outputs = x.shape[1] // groups, grad_y.shape[1] // groups
    grad = x.new_empty(geometry.positions, taps, groups, inputs, outputs)
    tile = _block(inputs, 64), _block(outputs, 64)
    tiles = _blocks(inputs, tile[0]) * _blocks(outputs, tile[1])
    with _device(x):
        kernel_gradient[(geometry.positions * taps * groups * tiles,)](
            x,
            grad_y,
            grad,
            len(x),
            forward_axis(geometry, 0),
            forward_axis(geometry, 1),
            geometry.kernel_size[1],
            taps,
            inputs,
            outputs,
            groups,
            SAMPLES=_block(len(x), 64),
            INPUTS=tile[0],
            OUTPUTS=tile[1],
            PRECISION=_precision(),
            num_warps=4,
            enable_fp_fusion=True,
        )
    return _shaped(grad.transpose(-1, -2), weight).to(weight.dtype)


def _gather(
    target: Tensor,
    source: Tensor,
    kernels: Tensor,
    weights: Tensor | None,
    rows: Axis,
    columns: Axis,
    kernel_at: tuple[tuple[int, int, int], tuple[int, int, int]],
    geometry: Geometry,
) -> None:
    """Fills the targets of two axes; ``kernels`` is (K or positions, taps, groups, in, out)."""
    if target.numel() == 0:
        return
    size, groups = geometry.output_size, geometry.groups
    inputs, outputs = kernels.shape[-2:]
    rank = 0 if weights is None else len(kernels)
    table = source.new_empty(0) if weights is None else weights.float().expand(-1, *size)
    batch = len(target)
    block = _block(outputs, 64)

    def grid(meta: dict[str, int]) -> tuple[int]:
        positions = _blocks(rows.length * columns.length, meta["POSITIONS"])
        samples = _blocks(batch, meta["SAMPLES"])
        return (positions * samples * groups * _blocks(outputs, block),)

    with _device(target):
        gather[grid](
            target,
            source,
            kernels.contiguous(),
            table,
            batch,
            rows,
            columns,
            kernel_at[0],
            (*kernel_at[1], size[1]),
            table.stride() if rank else (0, 0, 0),
            geometry.kernel_size[1],
            kernels.shape[1],
            inputs,
            outputs,
            groups,
            RANK=rank,
            BATCH=_block(batch, 128),
            INPUTS=_block(inputs, 64 // source.element_size()),
            OUTPUTS=block,
            PRECISION=_precision(),
            enable_fp_fusion=True,
        )


def _mixture(
    x: Tensor, bases: Tensor, weights: Tensor, grad_y: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """float32 gradients of (K, taps, groups, in, out) and of (K, positions)."""
    rank, taps, groups, inputs, outputs = bases.shape
    ranks = _power_of_two(rank)
    tile_in = _block(inputs, min(64, max(16, _TILE // ranks // 32)))
    tile_out = _block(outputs, min(64, max(16, _TILE // ranks // tile_in)))
    tiles = taps * groups * _blocks(inputs, tile_in) * _blocks(outputs, tile_out)
    runs = min(_blocks(_WAVES * _multiprocessors(x), tiles), geometry.positions)
    each = _blocks(geometry.positions, runs)
    runs = _blocks(geometry.positions, each)
    grad_bases = x.new_empty(runs, *bases.shape, dtype=torch.float32)
    grad_weights = x.new_empty(tiles, rank, geometry.positions, dtype=torch.float32)
    with _device(x):
        mixture_gradient[(tiles, runs)](
            x,
            grad_y,
            bases,
            weights,
            grad_bases,
            grad_weights,
            len(x),
            forward_axis(geometry, 0),
            forward_axis(geometry, 1),
            weights.stride(),
            geometry.kernel_size[1],
            taps,
            inputs,
            outputs,
            groups,
            each,
            rank,
            RANKS=ranks,
            SAMPLES=_block(len(x), 256 // x.element_size()),
            INPUTS=tile_in,
            OUTPUTS=tile_out,
            PRECISION=_precision(),
            num_warps=8,
            num_stages=2,
            enable_fp_fusion=True,
        )
    return grad_bases.sum(0), grad_weights.sum(0)


def _block(size: int, most: int) -> int:
    """A power of two for ``size``: at least 16, as tensor cores want, at most ``most``."""
    return min(max(_power_of_two(size), 16), most)


def _power_of_two(size: int) -> int:
    """The least one that is no smaller."""
    return 1 << max(size - 1, 0).bit_length()


def _blocks(size: int, block: int) -> int:
    return -(-size // block)


def _flat(kernels: Tensor, groups: int) -> Tensor:
    """(..., F, C / groups, kh, kw) as (-1, taps, groups, F / groups, C / groups)."""
    filters, channels, height, width = kernels.shape[-4:]
    split = kernels.reshape(-1, groups, filters // groups, channels, height * width)
    return split.permute(0, 4, 1, 2, 3)


def _shaped(flat: Tensor, like: Tensor) -> Tensor:
    """What ``_flat`` flattened, in the shape of ``like`` again."""
    return flat.permute(0, 2, 3, 4, 1).reshape(like.shape)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _pixels_last(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(
        shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )


def _as_given(result: Tensor, like: Tensor) -> Tensor:
    """``result`` in the memory format of ``like``."""
    keep = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    return result if keep else result.contiguous()


def _precision() -> str:
    """How torch's own convolutions multiply float32 on this GPU."""
    precision = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return "tf32" if precision == "tf32" else "ieee"


def _multiprocessors(x: Tensor) -> int:
    if x.device.type != "cuda":
        return 1  # Triton's interpreter
    return int(torch.cuda.get_device_properties(x.device).multi_processor_count)


def _device(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()
