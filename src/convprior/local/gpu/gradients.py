"""The kernels that make the gradients of the bases and their weights, or of each position's kernel.

Both rest on a position's own gradient, ``dW(p)[tap] = x(s(p, tap))' dy(p)``: a product over the
batch.
"""

# Triton compiles these functions itself; what looks like Python has other types.
# mypy: ignore-errors

import triton
import triton.language as tl

_PLAIN = [
    "batch",
    "rows",
    "columns",
    "weight_strides",
    "kernel_width",
    "taps",
    "positions_each",
    "rank",
]


@triton.jit(do_not_specialize=_PLAIN)
def mixture_gradient(
    source,
    grad,
    bases,
    weights,
    grad_bases,
    grad_weights,
    batch,
    rows,
    columns,
    weight_strides,
    kernel_width,
    taps,
    inputs,
    outputs,
    groups,
    positions_each,
    rank,
    RANKS: tl.constexpr,
    SAMPLES: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``dB_k = sum_p w_k(p) dW(p)`` and ``dw_k(p) = <dW(p), B_k>``, with dW never in memory.

    One program has one tile of INPUTS i, OUTPUTS j of one tap and group, and a run of positions.
    It keeps dB_k of its tile, for all k, in registers. What it leaves are two sums to finish, in a
    fixed order: over the runs for dB, over the tiles for dw.

    Args:
        source: x, (batch, all inputs, groups, inputs).
        grad: dy, (batch, positions, groups, outputs).
        bases: (rank, taps, groups, inputs, outputs).
        weights: float32 of (rank, rows, columns), any strides.
        grad_bases: float32 (runs, rank, taps, groups, inputs, outputs).
        grad_weights: float32 (tiles, rank, positions).
        batch: N.
        rows: the forward ``Axis`` of the rows.
        columns: the same of the columns.
        weight_strides: of the weights, (rank, row, column).
        kernel_width: taps in a row of the kernel.
        taps: of the whole kernel.
        inputs: input channels of a group.
        outputs: output channels of a group.
        groups: of the convolution.
        positions_each: length of a run.
        rank: K.
        RANKS: K, rounded up to a power of two.
        SAMPLES: samples of one step.
        INPUTS: input channels of a tile.
        OUTPUTS: output channels of a tile.
        PRECISION: "tf32" or "ieee", of products in float32.
    """
    tile, run = tl.program_id(0), tl.program_id(1)
    group = tile % groups
    tap = tile // groups % taps
    blocks = tl.cdiv(outputs, OUTPUTS)
    i = tile // (groups * taps) // blocks * INPUTS + tl.arange(0, INPUTS)
    j = tile // (groups * taps) % blocks * OUTPUTS + tl.arange(0, OUTPUTS)
    k = tl.arange(0, RANKS)
    real_k, real_i, real_j = k < rank, i < inputs, j < outputs
    mask = real_k[:, None, None] & real_i[None, :, None] & real_j[None, None, :]
    basis = (k.to(tl.int64) * taps + tap) * groups + group
    at = (basis[:, None, None] * inputs + i[None, :, None]) * outputs + j[None, None, :]
    tiles = tl.load(bases + at, mask=mask, other=0.0)
    positions = rows.length * columns.length
    parts = (tile.to(tl.int64) * rank + k) * positions

    sums = tl.full((RANKS, INPUTS, OUTPUTS), 0.0, tl.float32)
    product = tl.full((INPUTS, OUTPUTS), 0.0, tl.float32)
    steps = tl.cdiv(batch, SAMPLES)
    for step in range(positions_each * steps):
        position = run * positions_each + step // steps
        row, column = position // columns.length, position % columns.length
        y = rows.scale * row + rows.shift + rows.slide * (tap // kernel_width)
        x = columns.scale * column + columns.shift + columns.slide * (tap % kernel_width)
        inside = (y >= 0) & (y < rows.sources) & (x >= 0) & (x < columns.sources)
        n = (step % steps * SAMPLES + tl.arange(0, SAMPLES)).to(tl.int64)
        samples = tl.where(position < positions, batch, 0)
        pixel = (n * (rows.sources * columns.sources) + y * columns.sources + x) * groups + group
        panel = tl.load(
            source + pixel[None, :] * inputs + i[:, None],
            mask=(n < tl.where(inside, samples, 0))[None, :] & real_i[:, None],
            other=0.0,
        )
        pixel = (n * positions + position) * groups + group
        error = tl.load(
            grad + pixel[:, None] * outputs + j[None, :],
            mask=(n < samples)[:, None] & real_j[None, :],
            other=0.0,
        )
        product = tl.dot(panel, error, product, input_precision=PRECISION)
        if step % steps == steps - 1:
            real = k < tl.where(position < positions, rank, 0)
            at_weight = k * weight_strides[0] + row * weight_strides[1] + column * weight_strides[2]
            weight = tl.load(weights + at_weight, mask=real, other=0.0)
            sums += weight[:, None, None] * product[None]
            dots = tl.sum(tl.sum(tiles.to(tl.float32) * product[None], 2), 1)
            tl.store(grad_weights + parts + position, dots, mask=real)
            product = tl.full((INPUTS, OUTPUTS), 0.0, tl.float32)
    kernels = taps.to(tl.int64) * groups * inputs * outputs
    tl.store(grad_bases + run * rank * kernels + at, sums, mask=mask)


@triton.jit(do_not_specialize=_PLAIN)
def kernel_gradient(
    source,
    grad,
    grad_kernels,
    batch,
    rows,
    columns,
    kernel_width,
    taps,
    inputs,
    outputs,
    groups,
    SAMPLES: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``dW(p)`` itself, (positions, taps, groups, inputs, outputs); names as above.

    One program makes one tile of INPUTS i, OUTPUTS j of one position, tap and group.
    """
    blocks = tl.cdiv(outputs, OUTPUTS)
    program = tl.program_id(0)
    group = program % groups
    program = program // groups
    j = program % blocks * OUTPUTS + tl.arange(0, OUTPUTS)
    program = program // blocks
    i = program % tl.cdiv(inputs, INPUTS) * INPUTS + tl.arange(0, INPUTS)
    program = program // tl.cdiv(inputs, INPUTS)
    tap, position = program % taps, program // taps
    real_i, real_j = i < inputs, j < outputs
    row, column = position // columns.length, position % columns.length
    y = rows.scale * row + rows.shift + rows.slide * (tap // kernel_width)
    x = columns.scale * column + columns.shift + columns.slide * (tap % kernel_width)
    inside = (y >= 0) & (y < rows.sources) & (x >= 0) & (x < columns.sources)

    product = tl.full((INPUTS, OUTPUTS), 0.0, tl.float32)
    for first in range(0, batch, SAMPLES):
        n = (first + tl.arange(0, SAMPLES)).to(tl.int64)
        pixel = (n * (rows.sources * columns.sources) + y * columns.sources + x) * groups + group
        panel = tl.load(
            source + pixel[None, :] * inputs + i[:, None],
            mask=(n < tl.where(inside, batch, 0))[None, :] & real_i[:, None],
            other=0.0,
        )
        pixel = (n * (rows.length * columns.length) + position) * groups + group
        error = tl.load(
            grad + pixel[:, None] * outputs + j[None, :],
            mask=(n < batch)[:, None] & real_j[None, :],
            other=0.0,
        )
        product = tl.dot(panel, error, product, input_precision=PRECISION)
    kernel = (position.to(tl.int64) * taps + tap) * groups + group
    tl.store(
        grad_kernels + (kernel * inputs + i[:, None]) * outputs + j[None, :],
        product.to(grad_kernels.dtype.element_ty),
        mask=real_i[:, None] & real_j[None, :],
    )
