"""The compiled CPU path against float64, over shapes, types, threads and memory formats."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convprior.local import engine, plain
from convprior.local.engine import threads
from convprior.local.geometry import Geometry

HALF_UNIT = 2.0**-8  # of bfloat16: rounding changes a number by at most this fraction


class Case(NamedTuple):
    x: torch.Tensor
    bases: torch.Tensor
    weights: torch.Tensor
    grad_y: torch.Tensor
    geometry: Geometry


def make(n, inputs, outputs, rank, geometry, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    return Case(
        draw(n, inputs, *geometry.input_size).to(dtype),
        draw(rank, outputs, inputs, *geometry.kernel_size).to(dtype),
        draw(rank, *geometry.output_size),
        draw(n, outputs, *geometry.output_size).to(dtype),
        geometry,
    )


def results(case):
    y = engine.forward(case.x, case.bases, case.weights, case.geometry)
    return (y, *engine.backward(*case))


def truth(case, magnitudes=False):
    """Output and gradients in float64; or, of y and x, the sums of their terms in magnitude."""
    x, bases, weights, grad_y = (tensor.double() for tensor in case[:4])
    kernels = plain.gather_kernels(bases, weights)
    if magnitudes:
        x, kernels, grad_y = x.abs(), kernels.abs(), grad_y.abs()
    x.requires_grad_()
    if magnitudes:
        y = plain.local_plain(x, kernels, case.geometry)
        return y.detach(), *torch.autograd.grad(y, x, grad_y)
    bases, weights = bases.requires_grad_(), weights.requires_grad_()
    y = plain.local_plain(x, plain.gather_kernels(bases, weights), case.geometry)
    return y.detach(), *torch.autograd.grad(y, (x, bases, weights), grad_y)


def check(case):
    """float32: 1e-5 of the largest. bfloat16: every kernel rounded once, and every result once."""
    found, right = results(case), truth(case)
    slack = [1e-5 * value.abs().max() + 1e-30 for value in right]
    if case.x.dtype == torch.bfloat16:
        rounded = (*truth(case, magnitudes=True), torch.zeros(()))
        slack[:3] = [
            small + HALF_UNIT * (value.abs() + terms * (1 + HALF_UNIT))
            for small, value, terms in zip(slack, right, rounded, strict=False)
        ]
    for name, a, b, bound in zip(("y", "x", "bases", "weights"), found, right, slack, strict=True):
        assert a.shape == b.shape
        assert bool(((a.double() - b).abs() <= bound).all()), name
    assert [value.dtype for value in found] == [case.x.dtype] * 3 + [torch.float32]


@st.composite
def geometries(draw):
    def axis():
        kernel, stride, step = (draw(st.integers(1, top)) for top in (5, 3, 2))
        pads = draw(st.integers(0, 4)), draw(st.integers(0, 4))
        least = max(1, step * (kernel - 1) + 1 - sum(pads))
        return draw(st.integers(least, least + 9)), kernel, stride, pads, step

    rows, columns = axis(), axis()
    size, kernel, stride, pads, step = zip(rows, columns, strict=True)
    return Geometry(size, kernel, stride, (*pads[0], *pads[1]), step)


@settings(max_examples=60, deadline=None)
@given(
    geometries(),
    st.integers(1, 9),
    st.sampled_from([1, 2, 3, 8, 33, 67]),
    st.sampled_from([1, 5, 16, 40, 70]),
    st.integers(1, 9),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(0, 2**20),
)
def test_any_shape(geometry, n, inputs, outputs, rank, dtype, seed):
    check(make(n, inputs, outputs, rank, geometry, dtype, seed))


@settings(max_examples=40, deadline=None)
@given(
    geometries(),
    st.integers(1, 9),
    st.sampled_from([1, 2, 3, 8, 33, 67, 130]),
    st.sampled_from([1, 5, 16, 40, 70]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.booleans(),
    st.integers(0, 2**20),
)
def test_kernels_given_at_each_position(geometry, n, inputs, outputs, dtype, pairs, seed):
    from convprior.local.engine import passes

    case = make(n, inputs, outputs, 1, geometry, dtype, seed)
    shape = (*geometry.output_size, outputs, inputs, *geometry.kernel_size)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    exact = [tensor.double().requires_grad_() for tensor in (case.x, weight)]
    y = plain.local_plain(*exact, geometry)
    right = (y.detach(), *torch.autograd.grad(y, exact, case.grad_y.double()))
    has_pairs = passes.HAS_PAIRS
    try:
        passes.HAS_PAIRS = pairs and has_pairs
        found = (
            engine.forward_given(case.x, weight, geometry),
            *engine.backward_given(case.x, weight, case.grad_y, geometry),
        )
    finally:
        passes.HAS_PAIRS = has_pairs
    half_unit = HALF_UNIT if dtype == torch.bfloat16 else 0  # nothing but results is rounded
    for a, b in zip(found, right, strict=True):
        assert a.dtype == dtype
        assert bool(((a.double() - b).abs() <= 1e-5 * b.abs().max() + half_unit * b.abs()).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [(130, 20), (20, 260)])
def test_many_channels_are_cut_into_units_and_panels(channels, dtype):
    check(make(3, *channels, 2, Geometry.of_conv((4, 3), 3, padding=1), dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_batches_are_computed_in_parts(dtype):
    check(make(325, 3, 4, 2, Geometry.of_conv((3, 4), 2), dtype))


def test_bfloat16_on_a_processor_without_instructions_for_it(monkeypatch):
    from convprior.local.engine import passes

    monkeypatch.setattr(passes, "HAS_PAIRS", False)
    check(make(5, 7, 20, 3, Geometry.of_conv((5, 6), 3, padding=1), torch.bfloat16))


@pytest.mark.parametrize("shape", [(4, 5, 1), (4, 1, 6), (4, 1, 1)])
def test_weights_of_one_axis_have_gradients_of_their_shape(shape):
    case = make(3, 4, 5, 4, Geometry.of_conv((5, 6), 3, padding=1))
    weights = torch.randn(shape)
    wide = case._replace(weights=weights.expand(-1, 5, 6).contiguous())
    found, right = results(case._replace(weights=weights)), results(wide)
    torch.testing.assert_close(found[:3], right[:3])
    torch.testing.assert_close(found[3], right[3].sum_to_size(shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_at_a_number_of_threads_and_nearly_at_another(dtype):
    case = make(5, 6, 7, 3, Geometry.of_conv((9, 5), 3, padding=1), dtype)
    threads = torch.get_num_threads()
    found = {}
    try:
        for count in (1, 2, 16):
            torch.set_num_threads(count)
            found[count] = results(case)
            assert all(map(torch.equal, found[count], results(case)))
    finally:
        torch.set_num_threads(threads)
    for count in (2, 16):
        for index in (0, 1, 3):  # a position's sums are one thread's; only dB adds up threads
            assert torch.equal(found[count][index], found[1][index])
        torch.testing.assert_close(found[count][2], found[1][2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_memory_format(dtype):
    case = make(4, 6, 7, 3, Geometry.of_conv((5, 8), 3, padding=1), dtype)
    right = results(case)
    last = torch.channels_last
    again = results(case._replace(x=case.x.contiguous(memory_format=last)))
    assert all(map(torch.equal, again, right))
    strided = case.x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)
    assert all(map(torch.equal, results(case._replace(x=strided)), right))
    assert right[0].is_contiguous(memory_format=last)
    flat = case._replace(grad_y=torch.ones((), dtype=dtype).expand_as(case.grad_y))
    full = case._replace(grad_y=torch.ones_like(case.grad_y))
    assert all(map(torch.equal, results(flat), results(full)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_read_beyond_the_tensors(dtype):
    case = make(3, 3, 5, 2, Geometry.of_conv((4, 5), 3, padding=2), dtype)

    def inside(tensor):
        """The same tensor with NaN before and after it in memory."""
        buffer = torch.full((3 * tensor.numel(),), torch.nan, dtype=tensor.dtype)
        middle = buffer[tensor.numel() : 2 * tensor.numel()]
        middle.copy_(tensor.permute(0, 2, 3, 1).flatten())
        return middle.view(*(tensor.shape[i] for i in (0, 2, 3, 1))).permute(0, 3, 1, 2)

    guarded = case._replace(x=inside(case.x), grad_y=inside(case.grad_y))
    assert all(map(torch.equal, results(guarded), results(case)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_stays_where_it_belongs(dtype):
    case = make(5, 3, 20, 2, Geometry.of_conv((4, 4), 3, padding=1), dtype)
    case.x[2, 0, 0, 0] = torch.nan
    case.grad_y[4, 3, 3, 3] = torch.inf
    y, grad_x, grad_bases, _ = results(case)
    assert torch.isnan(y[2]).any(dim=0).nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert torch.isfinite(y[[0, 1, 3, 4]]).all()
    assert torch.isfinite(grad_x[:4]).all()
    assert torch.isnan(grad_bases[:, :, 0]).any()
    assert torch.isfinite(grad_bases[:, [c for c in range(20) if c != 3], 1:]).all()


def test_needs_and_empty_batches():
    case = make(2, 3, 4, 2, Geometry.of_conv((4, 4), 3))
    dx, dbases, dweights = engine.backward(*case, needs=(False, False, True))
    assert dx is None
    assert dbases is None
    assert torch.equal(dweights, results(case)[3])
    empty = case._replace(x=case.x[:0], grad_y=case.grad_y[:0])
    y, *gradients = results(empty)
    assert y.shape == (0, 4, 2, 2)
    assert [float(gradient.abs().sum()) for gradient in gradients] == [0, 0, 0]


def test_given_kernels_needs_and_empty_batches():
    case = make(2, 3, 4, 2, Geometry.of_conv((4, 4), 3))
    weight = torch.randn(2, 2, 4, 3, 3, 3)
    given_case = (case.x, weight, case.grad_y, case.geometry)
    dx, dweight = engine.backward_given(*given_case, needs=(False, True))
    assert dx is None
    assert torch.equal(dweight, engine.backward_given(*given_case)[1])
    assert engine.forward_given(case.x[:0], weight, case.geometry).shape == (0, 4, 2, 2)
    dx, dweight = engine.backward_given(case.x[:0], weight, case.grad_y[:0], case.geometry)
    assert dx.shape == (0, 3, 4, 4)
    assert not dweight.any()
    assert engine.why_not_given(case.x, weight, case.geometry) is None
    assert "float64" in engine.why_not_given(case.x.double(), weight.double(), case.geometry)


def test_why_not(monkeypatch):
    x, bases, weights, _, geometry = make(2, 4, 4, 2, Geometry.of_conv((4, 4), 3))
    assert engine.why_not(x, bases, weights, geometry) is None
    assert engine.available(x, bases, weights, geometry)
    assert "float64" in engine.why_not(x.double(), bases.double(), weights, geometry)
    assert "bfloat16" in engine.why_not(x, bases.bfloat16(), weights, geometry)
    assert "meta" in engine.why_not(x.to("meta"), bases, weights, geometry)
    grouped = Geometry.of_conv((4, 4), 3, groups=2)
    assert "groups is 2" in engine.why_not(x, bases[:, :, :2], weights, grouped)
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    assert "convprior[kernels]" in engine.why_not(x, bases, weights, geometry)


def test_memory_of_an_evaluation_serves_training() -> None:
    size = threads._KEPT_BYTES  # more than any call before may have left
    with torch.inference_mode():
        threads.scratch(size)
    assert not threads.scratch(size).is_inference()
