"""The room of filters works on local layers: their weight is a convolution's, K times as many."""

import math

import pytest
import torch
from torch import nn

from convprior.filters import FilterPrior, LocoReg, redraw_, tap_profile
from convprior.local import LowRankLocalConv1d, LowRankLocalConv2d

GAINS = {"softmax": 2.0, "l2": 1.0, None: 1.0}  # of four bases


def layer_of(channels=8, filters=32, rank=4, **changed):
    torch.manual_seed(0)
    return LowRankLocalConv2d(channels, filters, 3, input_size=7, rank=rank, **changed)


def test_locoreg_penalizes_every_basis():
    layer, bases = layer_of(rank=3), nn.ModuleList([nn.Conv2d(8, 32, 3) for _ in range(3)])
    for basis, conv in zip(layer.bases, bases, strict=True):
        conv.weight.data = basis.detach().clone()
    ours, theirs = LocoReg(layer, 0.01), LocoReg(bases, 0.01)
    torch.testing.assert_close(ours(), theirs())
    ours().backward()
    theirs().backward()
    for k, conv in enumerate(bases):
        torch.testing.assert_close(layer.weight.grad[32 * k : 32 * (k + 1)], conv.weight.grad)
    assert layer.row_logits.grad is None
    before = layer.row_logits.detach().clone()
    ours.decay_(0.5)
    theirs.decay_(0.5)
    for k, conv in enumerate(bases):
        assert torch.equal(layer.bases[k], conv.weight)
    assert torch.equal(layer.row_logits, before)


def test_locoreg_covers_sequences_and_not_the_gate():
    model = nn.ModuleList(
        [
            LowRankLocalConv1d(4, 6, 5, input_size=11, rank=2),
            layer_of(weights="input"),
        ]
    )
    assert list(LocoReg(model, 0.01).costs) == ["0", "1"]


def test_taps_of_a_local_layer_are_those_of_its_bases():
    layer = layer_of()
    profile, plain = tap_profile(layer), tap_profile(layer.weight.detach())
    assert len(profile.layers) == 1
    torch.testing.assert_close(profile.layers[0].rms, plain.layers[0].rms)
    assert len(tap_profile(layer_of(weights="input")).layers) == 1


def test_a_measured_prior_is_that_of_the_bases():
    layer = layer_of()
    assert FilterPrior.measured(layer) == FilterPrior.measured(layer.weight.detach())


@pytest.mark.parametrize("normalize", ["softmax", "l2", None])
@pytest.mark.parametrize("init", ["variance", "authors"])
def test_a_prior_keeps_the_first_variance_of_the_effective_kernel(normalize, init):
    """Without the gain a softmax over four bases would leave a quarter of it."""
    prior = FilterPrior.locality(3)
    layer = layer_of(32, 64, normalize=normalize, init=init)
    assert layer.basis_gain == (GAINS[normalize] if init == "variance" else 1.0)
    prior.init_(layer, torch.Generator().manual_seed(1))
    kernel = layer.combined_kernels()[2, 3].detach().double()
    share = 0.25 if (normalize, init) == ("softmax", "authors") else 1.0
    expected = prior.variance * share * 2.0 / (32 * 9)
    found = kernel.square().mean((0, 1))
    error = expected * math.sqrt(2.0 / (64 * 32))
    assert ((found - expected).abs() < 4.0 * error).all()
    conv = prior.init_(nn.Conv2d(32, 64 * 4, 3), torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer.weight, conv.weight * layer.basis_gain)


@pytest.mark.parametrize("weights", ["separable", "input"])
def test_redrawing_makes_a_fresh_layer(weights):
    model = nn.Sequential(layer_of(weights=weights), nn.BatchNorm2d(32))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    prior = FilterPrior.locality(3)
    assert redraw_(model, seed=3, prior=prior) == ()
    layer = model[0]
    weights_now = layer.combining_weights(torch.randn(2, 8, 7, 7))
    torch.testing.assert_close(weights_now, torch.full_like(weights_now, 0.25))
    kernel = layer.bases.detach().mean(0).double()
    expected = 2.0 / (8 * 9)
    error = expected * math.sqrt(2.0 * float((prior.variance**2).mean()) / kernel.numel())
    assert abs(float(kernel.square().mean()) - expected) < 4.0 * error
    first = {name: p.detach().clone() for name, p in model.named_parameters()}
    redraw_(model, seed=3, prior=prior)
    assert all(torch.equal(p, first[name]) for name, p in model.named_parameters())


def test_redrawing_only_the_filters_keeps_tables():
    model = nn.Sequential(layer_of())
    nn.init.normal_(model[0].row_logits)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    left = redraw_(model, seed=3, prior=FilterPrior.locality(3), only_prior=True)
    assert "0.weight" not in left
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name != "0.weight")
