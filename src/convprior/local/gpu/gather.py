"""The kernel of the forward pass and, with the roles exchanged, of the input's gradient."""

# Triton compiles these functions itself; what looks like Python has other types.
# mypy: ignore-errors

from typing import Any

import triton
import triton.language as tl

# Ranks up to here are unrolled, so that the loads of a whole step overlap with the products of the
# step before; beyond, the time of compilation would count.
_UNROLLED = tl.constexpr(8)


# Sizes that only enter addresses one at a time: a kernel for each divisor of them gains nothing.
_PLAIN = [
    "batch",
    "rows",
    "columns",
    "at_row",
    "at_column",
    "weight_strides",
    "kernel_width",
    "taps",
]


def _configurations() -> list[triton.Config]:
    """POSITIONS x SAMPLES x OUTPUTS sums take half of the registers; the first size is safest."""
    sizes = [(4, 32, 4, 2), (4, 64, 8, 2), (4, 128, 8, 2)]
    return [
        triton.Config({"POSITIONS": p, "SAMPLES": n}, num_warps=warps, num_stages=stages)
        for p, n, warps, stages in (sizes[:1] if triton.knobs.runtime.interpret else sizes)
    ]


def _no_larger_than_the_batch(
    configurations: list[triton.Config], arguments: dict[str, Any], **constants: Any
) -> list[triton.Config]:
    most = max({**arguments, **constants}["BATCH"], 32)
    return [config for config in configurations if config.kwargs["SAMPLES"] <= most]


@triton.autotune(
    _configurations(),
    key=["inputs", "outputs", "RANK", "BATCH", "PRECISION"],
    prune_configs_by={"early_config_prune": _no_larger_than_the_batch},
)
@triton.jit(do_not_specialize=_PLAIN)
def gather(
    target,
    source,
    kernels,
    weights,
    batch,
    rows,
    columns,
    at_row,
    at_column,
    weight_strides,
    kernel_width,
    taps,
    inputs,
    outputs,
    groups,
    RANK: tl.constexpr,
    BATCH: tl.constexpr,  # noqa: ARG001 (a key of the tuning)
    POSITIONS: tl.constexpr,
    SAMPLES: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Each target position collects ``source panel @ kernel`` over the taps that meet it.

    One program makes ``target[n, p, g, j]`` for SAMPLES n, POSITIONS p, one g and OUTPUTS j:
    ``sum_(tap, i) source[n, s(p, tap), g, i] W[w(p, tap), tap, g, i, j]``, where W is mixed here,
    ``W[w] = sum_k weights[k, w] kernels[k]``, or with RANK = 0 read, ``W[w] = kernels[w]``.

    Args:
        target: (batch, all targets, groups, outputs).
        source: (batch, all sources, groups, inputs).
        kernels: (RANK or positions, taps, groups, inputs, outputs).
        weights: float32 of (RANK, rows, columns), any strides; unused with RANK = 0.
        batch: N.
        rows: ``Axis`` of the rows, and the length of all targets along it.
        columns: the same of the columns.
        at_row: (scale, shift, slide) of the kernel's position: an output, whichever side that is.
        at_column: the same along the columns, and the number of outputs.
        weight_strides: of the weights, (rank, row, column).
        kernel_width: taps in a row of the kernel.
        taps: of the whole kernel.
        inputs: channels of a group in the source.
        outputs: channels of a group in the target.
        groups: of the convolution.
        RANK: K, or 0.
        BATCH: N, rounded up to a power of two, at most 128: the batches that are tuned for.
        POSITIONS: target positions of a program; they share the loads of the bases.
        SAMPLES: samples of a program.
        INPUTS: source channels of one step.
        OUTPUTS: target channels of a program.
        PRECISION: "tf32" or "ieee", of products in float32.
    """
    blocks = tl.cdiv(outputs, OUTPUTS)
    positions = rows.length * columns.length
    program = tl.program_id(0)
    group = program % groups
    j = program // groups % blocks * OUTPUTS + tl.arange(0, OUTPUTS)
    program = program // (groups * blocks)
    first = program % tl.cdiv(positions, POSITIONS) * POSITIONS
    n = program // tl.cdiv(positions, POSITIONS) * SAMPLES + tl.arange(0, SAMPLES)
    n = n.to(tl.int64)
    real_j = j < outputs

    sums = ()
    for _ in tl.static_range(POSITIONS):
        sums += (tl.full((SAMPLES, OUTPUTS), 0.0, tl.float32),)
    steps = tl.cdiv(inputs, INPUTS)
    for step in range(rows.turns * columns.turns * steps):
        i = step % steps * INPUTS + tl.arange(0, INPUTS)
        real_i = i < inputs
        turn_row = step // steps // columns.turns
        turn_column = step // steps % columns.turns
        tap = (rows.first_tap + rows.tap_step * turn_row) * kernel_width
        tap += columns.first_tap + columns.tap_step * turn_column
        tile = (tap * groups + group).to(tl.int64) * inputs * outputs
        tiles = kernels + tile + i[:, None] * outputs + j[None, :]
        real_tile = real_i[:, None] & real_j[None, :]
        kernel_size = taps.to(tl.int64) * groups * inputs * outputs

        # Where each position's source and kernel are; no samples if they are outside the image.
        samples, source_at, weight_at, kernel_at = (), (), (), ()
        for q in tl.static_range(POSITIONS):
            row, column = (first + q) // columns.length, (first + q) % columns.length
            y = rows.scale * row + rows.shift + rows.slide * turn_row
            x = columns.scale * column + columns.shift + columns.slide * turn_column
            inside = (row < rows.length) & (y >= 0) & (y < rows.sources)
            inside = inside & (x >= 0) & (x < columns.sources)
            samples += (tl.where(inside, batch, 0),)
            source_at += (y * columns.sources + x,)
            y = at_row[0] * row + at_row[1] + at_row[2] * turn_row
            x = at_column[0] * column + at_column[1] + at_column[2] * turn_column
            weight_at += (y * weight_strides[1] + x * weight_strides[2],)
            kernel_at += ((y * at_column[3] + x) * kernel_size,)

        mixed = ()
        if RANK == 0:
            for q in tl.static_range(POSITIONS):
                real_here = (i < tl.where(samples[q] > 0, inputs, 0))[:, None] & real_j[None, :]
                mixed += (tl.load(tiles + kernel_at[q], mask=real_here, other=0.0),)
        else:
            for _ in tl.static_range(POSITIONS):
                mixed += (tl.full((INPUTS, OUTPUTS), 0.0, tl.float32),)
            for k in tl.range(0, RANK, loop_unroll_factor=RANK if RANK <= _UNROLLED else 1):
                basis = tl.load(tiles + k * kernel_size, mask=real_tile, other=0.0).to(tl.float32)
                added = ()
                for q in tl.static_range(POSITIONS):
                    entry = weights + k * weight_strides[0] + weight_at[q]
                    weight = tl.load(entry, mask=samples[q] > 0, other=0.0)
                    added += (mixed[q] + weight * basis,)
                mixed = added

        added = ()
        for q in tl.static_range(POSITIONS):
            pixel = (n * (rows.sources * columns.sources) + source_at[q]) * groups + group
            panel = tl.load(
                source + pixel[:, None] * inputs + i[None, :],
                mask=(n < samples[q])[:, None] & real_i[None, :],
                other=0.0,
            )
            kernel = mixed[q].to(source.dtype.element_ty)
            added += (tl.dot(panel, kernel, sums[q], input_precision=PRECISION),)
        sums = added

    for q in tl.static_range(POSITIONS):
        row, column = (first + q) // columns.length, (first + q) % columns.length
        y = rows.origin + rows.step * row
        x = columns.origin + columns.step * column
        pixel = (n * (rows.targets * columns.targets) + y * columns.targets + x) * groups + group
        tl.store(
            target + pixel[:, None] * outputs + j[None, :],
            sums[q].to(target.dtype.element_ty),
            mask=(n < tl.where(row < rows.length, batch, 0))[:, None] & real_j[None, :],
        )
