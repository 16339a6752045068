"""What each path costs: floating-point operations and kernel elements times constants.

With E the elements of all positions' kernels:

- plain: K convolutions, and K outputs written and read again;
- conv, recompute: K convolutions, and in training K more of them;
- lines: one convolution as products, at any rank and number of samples;
- kernels_first: one convolution as products, and E elements mixed, written and read, where memory
  and not the 2 K E operations take the time, so that it does not depend on K;
- compiled, triton: the same, faster, but a call has a price, and weights of lines save nothing, as
  each position mixes its kernel. Where samples have weights of their own, compiled is K
  convolutions, in training as well; threads take whole images.

Each also lays out the K bases in memory in its own way, which is most of the time where there are
many channels and few positions (half of it for plain, which leaves it to the library), and has a
price per piece it is cut into, so that small layers stay in one piece. In training, a path that
forgets what it made takes four times its forward pass: it makes it again, and both gradients.
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
        lines: different kernels: H' W', or H' or W' where weights depend on one of them alone.
        kernel: elements of one kernel, F C / groups kh kw.
        filters: F.
        training: a backward pass will follow.
        device: "cpu" or "cuda".
        dtype: of input and bases.
        per_sample: every sample has weights of its own.
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
    per_sample: bool = False

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
            per_sample=weights.dim() == 4,
        )


@dataclass(frozen=True)
class Rates:
    """Seconds per unit of work, on one thread of a CPU or on a whole GPU.

    Attributes:
        convolution: a floating-point operation of the library's convolution.
        product: one of products a tile at a time.
        product_kernel: an element of a position's kernel there: mixed, written, read.
        fused: a floating-point operation of a compiled path.
        fused_kernel: an element of a position's kernel there.
        output: an element of an output, written and read again.
        basis: an element of a basis, laid out anew, or its gradient, laid out as before.
        piece: a call of the library, with what surrounds it.
        fused_call: a call of a compiled path.
    """

    convolution: float
    product: float
    product_kernel: float
    fused: float
    fused_kernel: float
    output: float
    basis: float
    piece: float
    fused_call: float


# CPU: one thread of a 2-core AMD EPYC (Zen 4) with other work on it, torch 2.15, oneDNN 3.13 and
# MKL 2024.2; least of three CPU times. The rates of an operation: N from 2 to 128, 64 to 64
# channels, 32x32, 3x3 and rank 4. An output: 3 to 64 channels, 32x32, N = 16. A basis: 512 to 512
# channels, 2x2, N = 16. A piece: 1 to 8 channels, 8x8, N = 100. Kernels of products in bfloat16:
# between ranks 4 and 8, as there mixing does depend on it.
# Only the ratios decide, and they hardly depend on the number of threads.
# GPU: not measured; peak rates of an H100 at usual efficiencies.
RATES = {
    ("cpu", 4): Rates(1.1e-11, 1.4e-11, 6e-10, 1.22e-11, 1.5e-10, 1.1e-9, 7e-9, 1.5e-5, 3e-4),
    ("cpu", 2): Rates(4.9e-12, 7.5e-12, 7e-10, 5.4e-12, 1.0e-10, 1.1e-9, 4.5e-9, 1.5e-5, 3e-4),
    ("cuda", 4): Rates(5e-15, 1e-14, 1e-11, 6e-15, 4e-13, 4e-12, 2e-11, 8e-6, 3e-5),
    ("cuda", 2): Rates(2.5e-15, 5e-15, 5e-12, 3e-15, 2e-13, 2e-12, 1e-11, 8e-6, 3e-5),
}
"""By kind of device and bytes of a number."""


def seconds(path: str, problem: Problem) -> float:
    """The estimate for one call of a path, with its backward pass in training."""
    device = "cpu" if problem.device == "cpu" else "cuda"
    rate = RATES[device, 2 if problem.dtype.itemsize == 2 else 4]
    positions = problem.rows * problem.columns
    operations = 2.0 * problem.images * positions * problem.kernel
    outputs = problem.images * positions * problem.filters
    layouts = problem.rank * problem.kernel * rate.basis
    passes = 3 if problem.training else 1
    if path == "plain":
        a_basis = operations * rate.convolution + 2 * outputs * rate.output + 3 * rate.piece
        return passes * (problem.rank * a_basis + layouts / 2)
    if path in ("conv", "recompute"):
        passes = 4 if problem.training else 1
        a_basis = operations * rate.convolution + 2 * outputs * rate.output
        return passes * (problem.rank * a_basis + layouts + 20 * rate.piece)
    if path in ("lines", "kernels_first"):
        passes = 4 if problem.training else 1
        pieces = 10 * problem.rows
        kernels = problem.lines * problem.kernel
        work = operations * rate.product + kernels * rate.product_kernel + outputs * rate.output
        return passes * (work + layouts + pieces * rate.piece)
    if problem.per_sample:
        threads = torch.get_num_threads()  # whole images each
        idle = threads / min(threads, max(problem.images, 1))
        work = idle * problem.rank * operations * rate.convolution
    else:
        work = operations * rate.fused + positions * problem.kernel * rate.fused_kernel
    return passes * (work + layouts + rate.fused_call)
