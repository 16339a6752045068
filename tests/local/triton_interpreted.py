"""Every GPU pass in Triton's interpreter against float64 loops; prints the errors as JSON.

Run by test_triton.py with TRITON_INTERPRET=1. Each error is in units of what rounding allows: the
sum of absolute values times the relative error of a term, plus the rounding of the result.
"""

import json
from itertools import product

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import (
    InterpreterBuilder,
    InterpreterOptions,
    TensorHandle,
    interpreter_builder,
)

from convprior.local import gpu
from convprior.local.geometry import Geometry

# Sums of float32 here have fewer than 128 terms after another: 128 half units in the last place.
SUMS = 2.0**-17
# The interpreter rounds to bfloat16, with its 8 bits, by cutting off.
ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-11}


def loop(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """One product a position, in float64; ``weight`` is (H', W', F, C / groups, kh, kw)."""
    top, bottom, left, right = geometry.padding
    x = torch.nn.functional.pad(x, (left, right, top, bottom))
    (kh, kw), (dy, dx), (sy, sx) = geometry.kernel_size, geometry.dilation, geometry.stride
    rows, columns = geometry.output_size
    y = []
    for i, j in product(range(rows), range(columns)):
        patch = x[:, :, i * sy : i * sy + dy * kh : dy, j * sx : j * sx + dx * kw : dx]
        patch = patch[:, :, :kh, :kw].unflatten(1, (geometry.groups, -1))
        kernel = weight[i, j].unflatten(0, (geometry.groups, -1))
        y.append(torch.einsum("ngcab,gfcab->ngf", patch, kernel).flatten(1))
    return torch.stack(y, 2).unflatten(2, (rows, columns))


def mixed(x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> Tensor:
    table = weights.expand(-1, *geometry.output_size)
    return loop(x, torch.einsum("khw,kfcij->hwfcij", table, bases), geometry)


def exact(oracle, inputs, grad_y, geometry) -> list[Tensor]:
    inputs = [tensor.double().requires_grad_() for tensor in inputs]
    y = oracle(*inputs, geometry)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad_y.double())]


def errors(oracle, forward, backward, inputs, geometry) -> list[float]:
    y = forward(*inputs, geometry)
    grad_y = torch.randn(y.shape).to(y.dtype)
    found = [y, *backward(*inputs, grad_y, geometry)]
    last = torch.channels_last
    form = last if inputs[0].is_contiguous(memory_format=last) else torch.contiguous_format
    assert all(tensor.is_contiguous(memory_format=form) for tensor in found[:2])
    truth = exact(oracle, inputs, grad_y, geometry)
    sizes = exact(oracle, [tensor.abs() for tensor in inputs], grad_y.abs(), geometry)
    units = []
    for index, (got, true, size) in enumerate(zip(found, truth, sizes, strict=True)):
        assert got.shape == true.shape, (index, got.shape, true.shape)
        assert got.dtype == (y if index == 0 else inputs[index - 1]).dtype
        kernels_rounded = index < 2  # y and dx are made with mixed kernels in the input's dtype
        each = SUMS + (ROUNDING[inputs[0].dtype] if kernels_rounded else 0.0)
        allowed = each * size + ROUNDING[got.dtype] * true.abs() + 1e-30
        units.append(float(((got.double() - true).abs() / allowed).max()) if got.numel() else 0.0)
    return units


def low_rank(n, c, f, rank, geometry, dtype=torch.float32, size=None) -> list[float]:
    x = torch.randn(n, c, *geometry.input_size).to(dtype)
    bases = torch.randn(rank, f, c // geometry.groups, *geometry.kernel_size).to(dtype)
    weights = torch.randn(rank, *(size or geometry.output_size))
    return errors(mixed, gpu.forward, gpu.backward, (x, bases, weights), geometry)


def strided(channels_last: bool) -> list[float]:
    """Views of everything; with ``channels_last`` of the input in that format."""
    geometry = Geometry.of_conv((3, 4), (2, 1))
    x = torch.randn(8, 3, 4, 6)[::2].permute(3, 0, 1, 2)[::2]
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    bases = torch.randn(1, 2, 4, 5, 2).permute(4, 3, 2, 1, 0)
    weights = torch.randn(4, 2, 2).permute(2, 1, 0)
    return errors(mixed, gpu.forward, gpu.backward, (x, bases, weights), geometry)


def empty() -> list[float]:
    geometry = Geometry.of_conv(2, 1)
    x, bases, weights = torch.randn(0, 3, 2, 2), torch.randn(2, 4, 3, 1, 1), torch.randn(2, 2, 2)
    y = gpu.forward(x, bases, weights, geometry)
    assert y.shape == (0, 4, 2, 2)
    dx, dbases, dweights = gpu.backward(x, bases, weights, y, geometry)
    assert dx is not None
    assert dx.shape == x.shape
    assert dbases is not None
    assert dweights is not None
    only = gpu.backward(x, bases, weights, y, geometry, (False, False, True))
    assert only[0] is None
    assert only[1] is None
    return [float(dbases.abs().max()), float(dweights.abs().max())]


def local(n, c, f, geometry, dtype=torch.float32) -> list[float]:
    x = torch.randn(n, c, *geometry.input_size).to(dtype)
    kernel = (f, c // geometry.groups, *geometry.kernel_size)
    weight = torch.randn(*geometry.output_size, *kernel).to(dtype)
    return errors(loop, gpu.forward_given, gpu.backward_given, (x, weight), geometry)


def dot_of_bfloat16(self, a, b, d, *options):
    """The interpreter multiplies the bits of bfloat16 as if they were integers."""
    if a.dtype.scalar == tl.bfloat16:
        a, b = (self.cast_impl(side, tl.float32) for side in (a, b))
    return TensorHandle(a.data.astype(np.float32) @ b.data.astype(np.float32) + d.data, d.dtype)


if __name__ == "__main__":
    InterpreterBuilder.create_dot = dot_of_bfloat16
    # Its checks of every sum of integers take half of the time, and nothing here is large.
    interpreter_builder.options = InterpreterOptions(sanitize_overflow=False)
    torch.manual_seed(0)
    of_conv = Geometry.of_conv
    uneven = Geometry((5, 6), (2, 3), (2, 3), (1, 0, 2, 1), (3, 2), 1)
    cases = {
        "same": low_rank(5, 3, 4, 3, of_conv((2, 3), (3, 2), padding=1)),
        "strided": strided(channels_last=False),
        "channels last": strided(channels_last=True),
        "stride 2": low_rank(3, 5, 3, 2, of_conv((5, 4), 3, stride=2, padding=1)),
        "uneven": low_rank(2, 3, 4, 2, uneven),
        "taps that meet no input": low_rank(2, 3, 2, 2, of_conv((2, 9), 1, stride=2)),
        "groups": low_rank(2, 6, 4, 2, of_conv((3, 4), 2, groups=2)),
        "rows": low_rank(2, 3, 3, 2, of_conv(3, 2), size=(2, 1)),
        "columns": low_rank(2, 3, 3, 2, of_conv((2, 4), (1, 2)), size=(1, 3)),
        "blocks of channels": low_rank(2, 20, 66, 2, of_conv((1, 3), (1, 2))),
        "blocks of samples": low_rank(70, 2, 3, 2, of_conv((2, 3), 2)),
        "rank above the unrolled": low_rank(2, 2, 2, 9, of_conv(3, 2)),
        "rank above one launch": low_rank(2, 2, 3, 34, of_conv((2, 3), 2)),
        "bfloat16": low_rank(5, 6, 4, 3, of_conv((3, 4), 2), torch.bfloat16),
        "float16": low_rank(5, 6, 4, 3, of_conv((3, 4), 2), torch.float16),
        "empty batch": empty(),
        "local": local(3, 3, 4, of_conv((4, 5), 3, padding=1, stride=2)),
        "local, groups": local(20, 4, 6, of_conv((3, 3), 2, dilation=2, groups=2)),
        "local, bfloat16": local(3, 3, 4, of_conv((3, 3), 2), torch.bfloat16),
    }
    print(json.dumps(cases))
