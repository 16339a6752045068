"""What each path costs: floating-point operations and kernel elements times measured constants.

With f the operations of one convolution and E the elements of all positions' kernels:

- plain: K convolutions, and K outputs written and read again;
- conv, recompute: K convolutions, and in training K more of them;
- lines: one convolution as products, at any rank and number of samples;
- kernels_first: one convolution as products, and E elements mixed, 2 K E operations: K / N of a
  convolution, but each element is written and read once besides;
- compiled, triton: the same, faster.

Each also has a price per piece it is cut into, so that small layers stay in one piece.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from convprior.local.geometry import Geometry


@dataclass(frozen=True)
class Problem:
    """A layer's call, as far as its cost goes.

    Attributes:
        images: N.
        rank: K.
        rows: H'.
        columns: W'.
        lines: kernels, where weights depend on rows or columns alone: H' or W'.
        kernel: elements of one kernel, F C / groups kh kw.
        filters: F.
        training: a backward pass will follow.
        device: "cpu" or "cuda".
        dtype: of input and bases.
    """

    images: int
    rank: int
    rows: int
    columns: int
    lines: int
    kernel: int
    filters: int
    training: bool
    device: str
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> "Problem":
        """Of the arguments of a path."""
        wanted = any(tensor.requires_grad for tensor in (x, bases, weights))
        return cls(
            images=x.shape[0],
            rank=bases.shape[0],
            rows=geometry.output_size[0],
            columns=geometry.output_size[1],
            lines=weights.shape[-2] * weights.shape[-1],
            kernel=bases[0].numel(),
            filters=bases.shape[1],
            training=torch.is_grad_enabled() and wanted,
            device=x.device.type,
            dtype=x.dtype,
        )


@dataclass(frozen=True)
class Rates:
    """Seconds per unit of work, on one thread of a CPU or on a whole GPU.

    Attributes:
        convolution: a floating-point operation of the library's convolution.
        product: one of products a tile at a time.
        compiled: one of the compiled path.
        kernel: an element of a position's kernel, mixed, written and read.
        mixing: an operation of the mixing.
        output: an element of an output, written and read again.
        piece: a call of the library, with what surrounds it.
    """

    convolution: float
    product: float
    compiled: float
    kernel: float
    mixing: float
    output: float
    piece: float


# One thread of a 2-core AMD EPYC (Zen 4), torch 2.15 with oneDNN 3.13 and MKL 2024.2; least time
# of several calls with shapes from 128x64x32x32 down to 2x64x32x32, 3x3 taps. The ratios matter.
_CPU = Rates(1.06e-11, 1.25e-11, 1.1e-11, 0.8e-9, 2e-11, 0.3e-9, 8e-6)
_CPU_HALF = Rates(4.8e-12, 6e-12, 5e-12, 0.5e-9, 1e-11, 0.3e-9, 8e-6)


def rates(dtype: torch.dtype) -> Rates:
    """The measured constants for a dtype."""
    return _CPU_HALF if dtype.itemsize == 2 else _CPU


def seconds(path: str, problem: Problem) -> float:
    """The estimate for one call of a path, with its backward pass in training."""
    rate = rates(problem.dtype)
    positions = problem.rows * problem.columns
    operations = 2.0 * problem.images * positions * problem.kernel
    outputs = problem.images * positions * problem.filters
    passes = 3 if problem.training else 1
    if path == "plain":
        a_basis = operations * rate.convolution + 2 * outputs * rate.output + 2 * rate.piece
        return passes * problem.rank * a_basis
    if path in ("conv", "recompute"):
        passes = 4 if problem.training else 1
        a_basis = operations * rate.convolution + outputs * rate.output
        return passes * (problem.rank * a_basis + 5 * rate.piece)
    if path == "lines":
        return passes * (operations * rate.product + 10 * problem.rows * rate.piece)
    kernels = positions * problem.kernel * (rate.kernel + 2 * problem.rank * rate.mixing)
    if path == "kernels_first":
        pieces = 10 * problem.rows
        return passes * (operations * rate.product + kernels + pieces * rate.piece)
    pieces = 3
    return passes * (operations * rate.compiled + kernels + pieces * rate.piece)
