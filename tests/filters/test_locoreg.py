"""LocoReg: the penalty, its gradient and the decoupled form against loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from convprior.errors import InputError
from convprior.filters import LocoReg, tap_costs
from convprior.filters.reference import reference_gradient, reference_penalty


def network(dtype=torch.float64, seed=0):
    """Dense, strided, depthwise, grouped, 1x1, even, rectangular, 1-d, 3-d and transposed."""
    torch.manual_seed(seed)
    return nn.ModuleDict(
        {
            "dense": nn.Conv2d(3, 70, 3),
            "wide": nn.Conv2d(70, 8, 3, stride=2, bias=False),
            "depthwise": nn.Conv2d(8, 8, 5, groups=8),
            "grouped": nn.Conv2d(8, 8, 3, groups=2),
            "point": nn.Conv2d(8, 4, 1),
            "even": nn.Conv2d(4, 4, 4),
            "row": nn.Conv2d(4, 4, (1, 7)),
            "line": nn.Conv1d(4, 4, 5),
            "volume": nn.Conv3d(2, 2, (3, 3, 2)),
            "up": nn.ConvTranspose2d(4, 6, 3),
            "norm": nn.BatchNorm2d(4),
            "head": nn.Linear(4, 2),
        }
    ).to(dtype)


def convolutions(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd)}


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("law", ["quadratic", "two_level"])
@pytest.mark.parametrize("control", [None, "reversed", "permuted"])
def test_penalty_and_gradients_equal_the_loops(memory, law, control):
    model = network()
    for module in convolutions(model).values():
        if module.weight.ndim == 4:
            module.to(memory_format=memory)
    reg = LocoReg(model, 0.01, law, 0.2, control=control, seed=5)
    assert list(reg.costs) == list(convolutions(model))
    expected = {
        name: (module.weight, tap_costs(module.kernel_size, law, 0.2, control=control, seed=5))
        for name, module in convolutions(model).items()
    }
    penalty = reg()
    total = sum(reference_penalty(w, c, 0.01) for w, c in expected.values())
    assert penalty.item() == pytest.approx(total, rel=1e-12)
    penalty.backward()
    for weight, costs in expected.values():
        gradient = reference_gradient(weight, costs, 0.01)
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-12, atol=1e-15)
        if weight.ndim == 4:
            assert weight.grad.is_contiguous(memory_format=memory)
    reg.add_gradient_()
    for weight, costs in expected.values():
        twice = 2 * reference_gradient(weight, costs, 0.01)
        torch.testing.assert_close(weight.grad, twice, rtol=1e-12, atol=1e-15)
    before = {name: weight.detach().clone() for name, (weight, _) in expected.items()}
    reg.decay_(0.5)
    for name, (weight, costs) in expected.items():
        shrunk = before[name] * (1 - 0.5 * 2 * 0.01 * costs)
        torch.testing.assert_close(weight.detach(), shrunk, rtol=1e-14, atol=0)
    untouched = {"norm", "head"}
    assert all(p.grad is None for name in untouched for p in model[name].parameters())
    assert all(m.bias is None or m.bias.grad is None for m in convolutions(model).values())


@given(
    st.lists(st.integers(1, 4), min_size=3, max_size=5),
    st.floats(0, 1),
    st.floats(0, 2),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_any_weight_shape_and_dtype(shape, floor, strength, dtype):
    kinds = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    conv = kinds[len(shape)](shape[1], shape[0], tuple(shape[2:]), dtype=dtype)
    reg = LocoReg(conv, strength, floor=floor)
    costs = tap_costs(conv.kernel_size, floor=floor)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5}[dtype]
    expected = reference_penalty(conv.weight, costs, strength)
    assert reg().item() == pytest.approx(expected, rel=tolerance, abs=1e-30)
    reg.add_gradient_()
    assert conv.weight.grad.dtype == dtype
    half = {torch.bfloat16: 2**-7}.get(dtype, tolerance)
    gradient = reference_gradient(conv.weight, costs, strength)
    torch.testing.assert_close(conv.weight.grad.double(), gradient, rtol=half, atol=1e-30)
    added = conv.weight.grad.clone()
    conv.weight.grad = None
    reg().backward()
    torch.testing.assert_close(conv.weight.grad, added, rtol=half, atol=1e-30)


def test_gradcheck_and_hessian():
    model = nn.Sequential(nn.Conv2d(2, 2, 3, dtype=torch.float64), nn.Conv2d(2, 1, 2).double())
    reg = LocoReg(model, 0.3, floor=0.1)
    weights = [model[0].weight, model[1].weight]
    assert torch.autograd.gradcheck(lambda *_: reg(), weights)
    assert torch.autograd.gradgradcheck(lambda *_: reg(), weights)
    grad = torch.autograd.grad(reg(), weights[0], create_graph=True)[0]
    diagonal = torch.autograd.grad(grad.sum(), weights[0])[0]
    expected = (2 * 0.3 * tap_costs(3, floor=0.1)).expand_as(diagonal)
    torch.testing.assert_close(diagonal, expected)


def test_floor_one_is_plain_l2():
    model = network()
    squares = sum(m.weight.square().sum() for m in convolutions(model).values())
    torch.testing.assert_close(LocoReg(model, 0.1, floor=1.0)(), 0.1 * squares)


def test_strength_and_rate_may_change_between_steps():
    conv = nn.Conv2d(2, 2, 3, dtype=torch.float64)
    reg = LocoReg(conv, 0.1)
    expected = conv.weight.detach().clone()
    for strength, rate in ((0.1, 0.2), (0.1, 0.1), (0.3, 0.1), (0.3, torch.tensor(0.25))):
        reg.strength = strength
        reg.decay_(rate)
        expected *= 1 - float(rate) * 2 * strength * tap_costs(3)
        torch.testing.assert_close(conv.weight.detach(), expected, rtol=1e-14, atol=0)


def test_half_precision_is_multiplied_by_an_unrounded_factor():
    conv = nn.Conv2d(64, 64, 3).bfloat16()
    before = conv.weight.detach().clone()
    LocoReg(conv, 0.5, floor=1.0).decay_(3e-3)
    assert torch.equal(conv.weight.detach(), before.mul(1 - 3e-3))  # as AdamW does
    assert not torch.equal(conv.weight.detach(), before * torch.tensor(1 - 3e-3).bfloat16())


def test_grouped_is_the_sum_over_split_convolutions():
    conv = nn.Conv2d(6, 4, 3, groups=2, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for part in conv.weight.detach().chunk(2):
        single = nn.Conv2d(3, 2, 3, dtype=torch.float64)
        single.weight.data.copy_(part)
        total += LocoReg(single, 0.1)().detach()
    torch.testing.assert_close(LocoReg(conv, 0.1)().detach(), total)


def test_transposed_is_the_convolution_with_swapped_channels():
    up = nn.ConvTranspose2d(3, 5, 3, dtype=torch.float64)
    conv = nn.Conv2d(3, 5, 3, dtype=torch.float64)
    conv.weight.data.copy_(up.weight.detach().transpose(0, 1))
    torch.testing.assert_close(LocoReg(up, 0.1)().detach(), LocoReg(conv, 0.1)().detach())


def test_after_batch_norm_only_locality_is_tangential():
    # BatchNorm makes the loss blind to the filter's scale: its gradient has no radial part. L2's
    # gradient is all radial; locality's is not, unless c is constant where w is not 0.
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, bias=False, dtype=torch.float64)
    model = nn.Sequential(conv, nn.BatchNorm2d(3, eps=1e-30, dtype=torch.float64), nn.Tanh())
    target = torch.randn(16, 3, 4, 4, dtype=torch.float64)
    nn.functional.mse_loss(model(torch.randn(16, 2, 6, 6).double()), target).backward()

    def tangential(gradient, filters):
        g, w = gradient.flatten(1), filters.flatten(1)
        radial = (g * w).sum(1, keepdim=True) / w.square().sum(1, keepdim=True) * w
        return float((g - radial).norm() / g.norm())

    weight, gradient = conv.weight.detach(), conv.weight.grad
    cosine = nn.functional.cosine_similarity(gradient.flatten(1), weight.flatten(1))
    assert float(cosine.abs().max()) < 1e-12
    for floor, least in ((1.0, 0.0), (0.0, 0.1)):
        conv.weight.grad = None
        LocoReg(conv, 0.1, floor=floor)().backward()
        found = tangential(conv.weight.grad, weight)
        assert found < 1e-12 if floor == 1.0 else found > least
    ring = weight.clone()
    ring[..., 1, 1] = 0
    ring[..., ::2, ::2] = 0  # only the four edge taps are left, and they cost the same
    conv.weight.data.copy_(ring)
    conv.weight.grad = None
    LocoReg(conv, 0.1)().backward()
    assert tangential(conv.weight.grad, ring) < 1e-12


def test_bad_distance_and_pixels():
    conv = nn.Conv2d(2, 2, 3, dilation=2)
    costs = LocoReg(conv, 0.1, "gaussian", distance="pixels").costs[""]
    torch.testing.assert_close(costs, tap_costs(3, "gaussian", dilation=2))
    taps = LocoReg(conv, 0.1, "gaussian").costs[""]
    torch.testing.assert_close(taps, tap_costs(3, "gaussian"))
    with pytest.raises(InputError, match="distance is 'miles'"):
        LocoReg(conv, 0.1, distance="miles")
