"""The functions and layers against loops in float64, over shapes, strides, groups and paddings."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convprior.local import Geometry, local_conv2d, low_rank_local_conv2d
from convprior.local.layers.combining import normalized, sum_of_tables
from convprior.local.layers.gate import InputGate
from convprior.local.plain import gather_kernels
from convprior.local.reference import (
    reference_gate,
    reference_kernels,
    reference_local_conv2d,
    reference_weights,
)

MODES = ["zeros", "reflect", "replicate", "circular"]


@st.composite
def problems(draw):
    """A small convolution of any kind: arguments, geometry, mode and a seed's tensors."""
    number = st.integers(1, 3)
    size = draw(st.tuples(st.integers(4, 7), st.integers(4, 7)))
    kernel, groups = draw(st.tuples(number, number)), draw(st.sampled_from([1, 1, 2]))
    dilation = draw(st.tuples(*[st.integers(1, 2 if k > 1 else 3) for k in kernel]))
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    fits = [reach[axis] < size[axis] for axis in (0, 1)]
    padding = draw(st.sampled_from(["same", "valid", 1, (0, 2)]))
    if not all(fits):
        padding = "same"
    stride = (1, 1) if padding == "same" else draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    mode = draw(st.sampled_from(MODES))
    geometry = Geometry.of_conv(size, kernel, stride, padding, dilation, groups)
    n, channels, filters, rank = draw(st.tuples(number, number, number, number))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))

    def tensor(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    x = tensor(n, channels * groups, *size)
    bases = tensor(rank, filters * groups, channels, *kernel)
    arguments = (stride, padding, dilation, groups, mode)
    return x, bases, geometry, arguments, tensor


@given(problems(), st.sampled_from(["full", "rows", "columns", "sample"]), st.booleans())
def test_mixing_outputs_equals_the_loops(problem, weights, biased):
    x, bases, geometry, arguments, tensor = problem
    rows, columns = geometry.output_size
    rank, filters = bases.shape[:2]
    shape = {
        "full": (rank, rows, columns),
        "rows": (rank, rows, 1),
        "columns": (rank, 1, columns),
        "sample": (len(x), rank, rows, columns),
    }[weights]
    mixture = tensor(*shape)
    bias, spatial = (tensor(filters), tensor(rows, columns)) if biased else (None, None)
    y = low_rank_local_conv2d(x, bases, mixture, bias, spatial, *arguments)
    kernels = reference_kernels(bases, mixture.expand(*mixture.shape[:-2], rows, columns))
    total = bias[:, None, None] + spatial if biased else None
    expected = reference_local_conv2d(x, kernels, total, geometry, arguments[-1])
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)


@given(problems(), st.booleans())
def test_local_convolution_equals_the_loops(problem, biased):
    x, bases, geometry, arguments, tensor = problem
    filters, *kernel = bases.shape[1:]
    weight = tensor(*geometry.output_size, filters, *kernel)
    bias = tensor(filters, *geometry.output_size) if biased else None
    y = local_conv2d(x, weight, bias, *arguments)
    expected = reference_local_conv2d(x, weight, bias, geometry, arguments[-1])
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)


@given(problems())
def test_kernels_and_outputs_can_be_mixed_in_either_order(problem):
    x, bases, geometry, arguments, tensor = problem
    weights = tensor(len(bases), *geometry.output_size)
    kernels = gather_kernels(bases, weights)
    torch.testing.assert_close(kernels, reference_kernels(bases, weights))
    y = low_rank_local_conv2d(x, bases, weights, None, None, *arguments)
    expected = local_conv2d(x, kernels, None, *arguments)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)


@given(
    st.sampled_from([("row", "column"), ("row",), ("column",), ("map",)]),
    st.sampled_from(["softmax", "l2", None]),
    st.tuples(*[st.integers(1, 4)] * 3),
    st.sampled_from([1e-9, 1.0, 30.0]),
)
def test_weights_equal_the_loops(names, normalize, shape, scale):
    rank, rows, columns = shape
    shapes = {"row": (rank, rows), "column": (rank, columns), "map": (rank, rows, columns)}
    generator = torch.Generator().manual_seed(rank)
    tables = {
        name: scale * torch.randn(shapes[name], dtype=torch.float64, generator=generator)
        for name in names
    }
    weights = normalized(sum_of_tables(tables, (rows, columns), rank), normalize, 0)
    expected = reference_weights(tables, (rows, columns), normalize)
    torch.testing.assert_close(weights.expand(expected.shape), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("normalize", ["softmax", "l2", None])
@pytest.mark.parametrize(
    ("size", "output", "branches"), [((5, 7), (3, 7), 2), ((9, 9), (9, 9), 3), ((2, 6), (1, 4), 0)]
)
def test_gate_equals_the_loops(size, output, branches, normalize):
    torch.manual_seed(0)
    gate = InputGate(3, 2, size, dtype=torch.float64)
    assert len(gate.dilations) == branches
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = reference_gate(x, dict(gate.named_parameters()), output, normalize)
    weights = normalized(gate(x, output), normalize, 1)
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-12)


def test_gate_of_a_sequence_equals_the_loops():
    torch.manual_seed(0)
    gate = InputGate(3, 2, (9,), dtype=torch.float64)
    assert gate.dilations == (1, 2, 4)
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 3, 1, 9, dtype=torch.float64)
    expected = reference_gate(x, dict(gate.named_parameters()), (1, 7), "softmax")
    torch.testing.assert_close(gate(x, (1, 7)).softmax(1), expected, rtol=1e-12, atol=1e-12)
