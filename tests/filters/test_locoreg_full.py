"""LocoReg with correlated priors: three forms of the full precision against loops and limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from convprior.errors import InputError
from convprior.filters import FilterPrior, LocoReg, tap_costs
from convprior.filters.reference import (
    reference_precision_decay,
    reference_precision_gradient,
    reference_precision_penalty,
)

SIZES = {"3x3": (3, 3), "5x5": (5, 5), "4x4": (4, 4), "1x7": (1, 7), "5": (5,), "3x3x2": (3, 3, 2)}
PRIORS = {key: FilterPrior.correlated(size, "matern32", 1.2) for key, size in SIZES.items()}
SMOOTH = PRIORS["3x3"]


def network(dtype=torch.float64):
    """Dense, strided, depthwise, grouped, even, rectangular, 1-d, 3-d, transposed, and 1x1."""
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "dense": nn.Conv2d(3, 9, 3),
            "wide": nn.Conv2d(9, 8, 3, stride=2, bias=False),
            "depthwise": nn.Conv2d(8, 8, 5, groups=8),
            "grouped": nn.Conv2d(8, 8, 3, groups=2),
            "point": nn.Conv2d(8, 4, 1),
            "even": nn.Conv2d(3, 4, 4),
            "row": nn.Conv2d(4, 4, (1, 7)),
            "line": nn.Conv1d(4, 3, 5),
            "volume": nn.Conv3d(2, 2, (3, 3, 2)),
            "up": nn.ConvTranspose2d(4, 6, 3),
            "head": nn.Linear(4, 2),
        }
    ).to(dtype)


def scaled(prior):
    inverse = torch.linalg.inv(prior.covariance)
    return inverse * (len(inverse) / inverse.trace())


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_a_mixed_network_equals_the_loops_in_all_forms(memory):
    model = network()
    for module in model.values():
        if getattr(module, "kernel_size", None) is not None and module.weight.ndim == 4:
            module.to(memory_format=memory)
    reg = LocoReg(model, 0.01, PRIORS)
    covered = {name: model[name].weight for name in reg.costs}
    assert list(covered) == [n for n in model if n not in ("point", "head")]
    priors = {n: PRIORS["x".join(map(str, model[n].kernel_size))] for n in covered}
    precision = {name: scaled(prior) for name, prior in priors.items()}
    for name, matrix in reg.precisions.items():
        torch.testing.assert_close(matrix, precision[name], rtol=1e-10, atol=1e-10)
        assert torch.equal(reg.costs[name].flatten(), matrix.diagonal())
    total = sum(reference_precision_penalty(w, priors[n].covariance) for n, w in covered.items())
    penalty = reg()
    assert penalty.item() == pytest.approx(0.01 * total, rel=1e-12)
    penalty.backward()
    loops = {n: reference_precision_gradient(w, precision[n], 0.01) for n, w in covered.items()}
    for name, weight in covered.items():
        torch.testing.assert_close(weight.grad, loops[name], rtol=1e-10, atol=1e-14)
        if weight.ndim == 4:
            assert weight.grad.is_contiguous(memory_format=memory)
    reg.add_gradient_()
    for name, weight in covered.items():
        torch.testing.assert_close(weight.grad, 2 * loops[name], rtol=1e-10, atol=1e-14)
    shrunk = {n: reference_precision_decay(w, precision[n], 0.01, 0.5) for n, w in covered.items()}
    places = {name: weight.data_ptr() for name, weight in covered.items()}
    reg.decay_(0.5)
    for name, weight in covered.items():
        torch.testing.assert_close(weight.detach(), shrunk[name], rtol=1e-12, atol=1e-15)
        assert weight.data_ptr() == places[name]
    assert model["point"].weight.grad is None
    assert model["head"].weight.grad is None


def as_laid_out(tensor, layout):
    if layout == "channels_last":
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "strided":  # no layout the fast paths know
        return torch.stack([tensor, tensor], -1)[..., 0]
    return tensor.contiguous()


LAYOUTS = st.sampled_from(["contiguous", "channels_last", "strided"])


@given(
    st.lists(st.integers(1, 5), min_size=3, max_size=5),
    st.floats(0, 1),
    st.floats(0, 2),
    LAYOUTS,
    LAYOUTS,
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_any_shape_layout_and_dtype(shape, floor, strength, layout, grad_layout, dtype):
    kinds = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    conv = kinds[len(shape)](shape[1], shape[0], tuple(shape[2:]), bias=False)
    conv.weight = nn.Parameter(as_laid_out(conv.weight.detach().to(dtype), layout))
    prior = FilterPrior.correlated(conv.kernel_size, "exponential", 1.5)
    reg = LocoReg(conv, strength, prior, floor)
    taps = math.prod(conv.kernel_size)
    precision = floor * torch.eye(taps, dtype=torch.float64) + (1 - floor) * scaled(prior)
    weight = conv.weight.detach().clone()
    gradient = reference_precision_gradient(weight, precision, strength)
    tolerance = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 2**-7}[dtype]
    room = tolerance * float(gradient.abs().max() + weight.abs().max())
    penalty = float((weight.double() * gradient).sum()) / 2
    exact = 1e-11 if dtype == torch.float64 else 1e-5
    assert reg().item() == pytest.approx(penalty, rel=exact, abs=1e-30)
    reg().backward()
    assert conv.weight.grad.dtype == dtype
    torch.testing.assert_close(conv.weight.grad.double(), gradient, rtol=tolerance, atol=room)
    conv.weight.grad = as_laid_out(conv.weight.detach().clone(), grad_layout)
    reg.add_gradient_()
    expected = weight.double() + gradient
    torch.testing.assert_close(conv.weight.grad.double(), expected, rtol=tolerance, atol=room)
    reg.decay_(0.05 / (1 + strength))
    expected = reference_precision_decay(weight, precision, strength, 0.05 / (1 + strength))
    torch.testing.assert_close(conv.weight.detach().double(), expected, rtol=tolerance, atol=room)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_gradcheck_and_hessian(memory):
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.ConvTranspose2d(2, 1, (2, 3))).double()
    model.to(memory_format=memory)
    priors = {"0": SMOOTH, "1": FilterPrior.correlated((2, 3))}
    reg = LocoReg(model, 0.3, priors, 0.1)
    weights = [model[0].weight, model[1].weight]
    assert torch.autograd.gradcheck(lambda *_: reg(), weights)
    assert torch.autograd.gradgradcheck(lambda *_: reg(), weights)
    grad = torch.autograd.grad(reg(), weights[0], create_graph=True)[0].flatten()
    rows = [torch.autograd.grad(g, weights[0], retain_graph=True)[0].flatten() for g in grad]
    blocks = torch.block_diag(
        *[2 * 0.3 * (0.1 * torch.eye(9, dtype=torch.float64) + 0.9 * scaled(SMOOTH))] * 4
    )
    torch.testing.assert_close(torch.stack(rows), blocks, rtol=1e-10, atol=1e-12)


def test_it_is_the_prior_s_own_penalty_and_its_log_density():
    conv = nn.Conv2d(4, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(LocoReg(conv, 0.2, SMOOTH)(), 0.2 * SMOOTH.penalty(conv.weight))
    density = torch.distributions.MultivariateNormal(torch.zeros(9).double(), SMOOTH.covariance)
    rows = conv.weight.detach().view(-1, 9)
    log = density.log_prob(rows) - density.log_prob(torch.zeros_like(rows))
    inverse = torch.linalg.inv(SMOOTH.covariance)
    torch.testing.assert_close(
        LocoReg(conv, 1.0, SMOOTH)().detach(), -log.sum() * 2 * 9 / inverse.trace()
    )


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_without_correlations_it_is_the_diagonal_form(memory):
    almost = torch.full((9, 9), 1e-15, dtype=torch.float64).fill_diagonal_(1.0)
    variance = 1 / tap_costs(3, floor=0.3)
    results = []
    for prior in (FilterPrior(variance), FilterPrior(variance, almost)):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Conv2d(3, 7, 3), nn.Conv2d(7, 4, 3)).double()
        model.to(memory_format=memory)
        reg = LocoReg(model, 0.1, prior, 0.2)
        reg.add_gradient_()
        penalty = reg()
        reg.decay_(0.3)
        results.append([penalty, *(p.grad for p in (model[0].weight, model[1].weight))])
        results[-1] += [model[0].weight, model[1].weight]
    assert "filters decay" in repr(reg), "the second goes through the matrix form"
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_floor_mixes_plain_l2_and_keeps_the_trace():
    model = network()
    for floor in (0.0, 0.25, 0.9):
        for name, matrix in LocoReg(model, 0.1, PRIORS, floor).precisions.items():
            pure = LocoReg(model, 0.1, PRIORS).precisions[name]
            taps = len(matrix)
            assert float(matrix.trace()) == pytest.approx(taps, rel=1e-12)
            torch.testing.assert_close(
                matrix, floor * torch.eye(taps, dtype=torch.float64) + (1 - floor) * pure
            )
    plain = LocoReg(model, 0.1, PRIORS, floor=1.0)
    assert all(torch.equal(c, torch.ones_like(c)) for c in plain.costs.values())
    assert repr(plain).count("(plain L2)") == len(plain.costs)
    uniform = LocoReg(model, 0.1, floor=1.0, exclude="point")
    assert torch.equal(plain(), uniform()), "the same paths, so the same bits"
    with pytest.raises(InputError, match=r"floor is 1\.5"):
        LocoReg(model, 0.1, PRIORS, floor=1.5)


def test_permuted_taps_keep_everything_but_the_geometry():
    conv = nn.Conv2d(2, 2, 3, dtype=torch.float64)
    law = FilterPrior(1 / tap_costs(3, floor=0.3), SMOOTH.correlation)
    matrix = LocoReg(conv, 0.1, law).precisions[""]
    seen = set()
    for seed in range(5):
        mixed = LocoReg(conv, 0.1, law, control="permuted", seed=seed).precisions[""]
        assert not torch.equal(mixed, matrix)
        for part in (torch.diagonal, torch.linalg.eigvalsh):
            torch.testing.assert_close(part(mixed).sort()[0], part(matrix).sort()[0])
        again = LocoReg(conv, 0.1, law, control="permuted", seed=seed).precisions[""]
        assert torch.equal(mixed, again)
        seen.add(tuple(mixed.flatten().tolist()))
    assert len(seen) == 5
    equal = FilterPrior(torch.ones(3), torch.full((3, 3), 0.5).fill_diagonal_(1.0))
    line = nn.Conv1d(1, 1, 3)
    same = [LocoReg(line, 1.0, equal, control=c).precisions[""] for c in (None, "permuted")]
    torch.testing.assert_close(same[0], same[1], rtol=1e-12, atol=1e-12)


def test_decay_takes_rough_filters_first_and_never_turns_one_around():
    conv = nn.Conv2d(6, 6, 3, dtype=torch.float64)
    reg = LocoReg(conv, 0.5, SMOOTH)
    values, vectors = torch.linalg.eigh(reg.precisions[""])
    before = conv.weight.detach().view(-1, 9) @ vectors
    rate = 0.9 / float(values[-1])
    for _ in range(4):
        reg.decay_(rate)
    after = conv.weight.detach().view(-1, 9) @ vectors
    torch.testing.assert_close(after, before * (1 - rate * values) ** 4, rtol=1e-9, atol=1e-12)
    assert torch.equal(after.sign(), before.sign())
    smoothest = vectors[:, 0]
    assert bool((smoothest > 0).all() or (smoothest < 0).all()), "it shrinks least"


def test_errors():
    model = network()
    reg = LocoReg(model, 1.0, {**PRIORS, "dense": FilterPrior.independent(3)})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(InputError, match=r"max eig\(A\) is 1\.\d+ for 'wide'.*max eig\(A\)=\d"):
        reg.decay_(1.05 / (2 * float(torch.linalg.eigvalsh(reg.precisions["wide"])[-1])))
    with pytest.raises(InputError, match=r"must be in \[0, 1\), or a filter"):
        LocoReg(model, 1.0, SMOOTH).decay_(-0.1)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    with pytest.raises(InputError, match=r"layer 'dense': .*is singular.*shrink"):
        LocoReg(model, 0.1, FilterPrior.mean_pool(3))
    few = FilterPrior.measured(torch.randn(4, 1, 3, 3))
    with pytest.raises(InputError, match=r"layer 'dense': .*is singular.*shrink"):
        LocoReg(model, 0.1, few)
    assert LocoReg(model, 0.1, few.shrink(0.1))().item() > 0
    with pytest.raises(InputError, match=r"have no order to turn.*'permuted'"):
        LocoReg(model, 0.1, SMOOTH, control="reversed")
    with pytest.raises(InputError, match="control is 'mirrored'"):
        LocoReg(model, 0.1, SMOOTH, control="mirrored")
    with pytest.raises(InputError, match="has no parameter"):
        LocoReg(model, 0.1, SMOOTH, parameter=2.0)
