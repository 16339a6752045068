"""FilterPrior.measured: from which sources, pooled how, and what it says of what it found."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from convprior.errors import InputError
from convprior.filters import FilterPrior, LocoReg, measured_priors
from convprior.filters.prior.reference import reference_pooled_moments
from convprior.models import create_model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network():
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8)
    )
    return nn.ModuleDict(
        {
            "stem": nn.Conv2d(3, 4, 5),
            "body": body,
            "mix": nn.Conv2d(8, 8, 1),
            "up": nn.ConvTranspose2d(8, 2, 3),
            "norm": nn.GroupNorm(2, 8),
            "head": nn.Linear(8, 2),
        }
    )


def test_measured_recovers_the_prior_that_drew():
    truth = FilterPrior.locality(3, floor=0.4)
    found = FilterPrior.measured(truth.sample(2000, 100, seeded()))
    torch.testing.assert_close(found.variance, truth.variance, rtol=0.02, atol=0)
    smooth = FilterPrior.correlated(3, "matern32", 1.0)
    found = FilterPrior.measured(smooth.sample(2000, 100, seeded()))
    torch.testing.assert_close(found.correlation, smooth.correlation, rtol=0, atol=0.02)


def test_measured_takes_modules_and_ignores_scale():
    conv = nn.Conv2d(8, 16, 3)
    prior = FilterPrior.measured(conv)
    tiny = FilterPrior.measured(conv.weight.detach().double() * 1e-200)
    torch.testing.assert_close(prior.covariance, tiny.covariance, rtol=1e-9, atol=1e-12)
    signs = torch.where(torch.rand(8, 16, 3, 3, generator=seeded()) < 0.5, -1.0, 1.0)
    assert torch.equal(FilterPrior.measured(signs).variance, torch.ones(3, 3, dtype=torch.float64))


def test_measured_with_few_filters_needs_shrinkage():
    few = torch.randn(2, 2, 3, 3, generator=seeded())
    with pytest.raises(InputError, match=r"measured from 4 filters for 9 taps; give shrink"):
        _ = FilterPrior.measured(few).precision
    repeated = FilterPrior.measured(few.repeat(5, 1, 1, 1))  # enough filters, all alike
    with pytest.raises(InputError, match=r"singular \(rank 4 of 9\).*use prior\.shrink\(0\.01\)"):
        _ = repeated.precision
    shrunk = FilterPrior.measured(few, shrinkage=0.1)
    assert shrunk == FilterPrior.measured(few).shrink(0.1)
    assert bool(torch.isfinite(shrunk.precision).all())
    identity = FilterPrior.measured(few, shrinkage=1.0)
    torch.testing.assert_close(identity.covariance, FilterPrior.independent(3).covariance)


def test_measured_monotone_profile():
    # Corners larger than edges: both pool to their mean; the center stays above.
    variance = torch.tensor([[3.0, 1, 3], [1, 9, 1], [3, 1, 3]], dtype=torch.float64)
    weight = FilterPrior(variance).sample(4000, 50, seeded())
    raw = FilterPrior.measured(weight).variance
    found = FilterPrior.measured(weight, monotone=True).variance
    pooled = (raw.sum() - raw[1, 1]) / 8
    assert torch.allclose(found.flatten()[[0, 1, 2, 3, 5, 6, 7, 8]], pooled, rtol=1e-12)
    assert float(found[1, 1]) == pytest.approx(float(raw[1, 1]))
    decreasing = FilterPrior.locality(5, floor=0.3).sample(3000, 50, seeded())
    ring = FilterPrior.measured(decreasing, monotone=True).variance
    assert torch.equal(ring, ring.T)
    assert torch.equal(ring, ring.flip(0))


def test_a_zero_tap_is_named():
    conv = nn.Conv2d(3, 4, 3)
    conv.weight.data[:, :, 0, 2] = 0
    with pytest.raises(InputError, match=r"tap \(0, 2\) of Conv2d\(3, 4"):
        FilterPrior.measured(conv)


@settings(max_examples=25)
@given(st.data())
def test_pooling_equals_its_loops(data):
    size = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3), label="size"))
    if math.prod(size) > 30:
        size = size[:1]
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1))
    weights = [
        torch.randn(*shape, *size, generator=seeded(i), dtype=torch.float64) * 10.0**i
        for i, shape in enumerate(shapes[:3])
    ]
    found = FilterPrior.measured({f"{i}.weight": weight for i, weight in enumerate(weights)})
    expected = reference_pooled_moments(weights)
    torch.testing.assert_close(found.covariance, expected, rtol=1e-12, atol=1e-12)


def test_every_source_gives_the_same_prior(tmp_path):
    net = network()
    state = net.state_dict()
    expected = FilterPrior.measured(net, kernel_size=3)
    parts = [net["body"][0], net["body"][2], net["up"]]
    moments = reference_pooled_moments([part.weight for part in parts])
    torch.testing.assert_close(expected.covariance, moments, rtol=1e-12, atol=1e-12)
    assert repr(expected) == "FilterPrior.measured(kernel_size=(3, 3), layers=3, filters=40)"
    save_file(state, tmp_path / "weights.safetensors")
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    compiled = torch.compile(net, backend="eager")
    file = tmp_path / "weights.safetensors"
    for source in (state, wrapped, compiled, compiled.state_dict(), file, str(file), tmp_path):
        found = FilterPrior.measured(source, kernel_size=3)
        torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-12, atol=1e-12)
    for source in (net, state, file):
        one = FilterPrior.measured(source, layer="body.0")
        assert one == FilterPrior.measured(net["body"][0])
        assert one == FilterPrior.measured(net["body"][0].weight)
        both = FilterPrior.measured(source, layer="body")
        assert both == FilterPrior.measured(source, layer="body.*")


def test_one_tap_is_left_out_unless_asked_for():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(2, 2))
    assert FilterPrior.measured(net) == FilterPrior.measured(net[0])
    for prior in (FilterPrior.measured(net[1]), FilterPrior.measured(net, kernel_size=1)):
        assert prior == FilterPrior.independent(1)
    assert list(measured_priors(net)) == ["3x3"]


def test_tied_weights_count_once():
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    once = FilterPrior.measured(net[:2])
    net[2].weight = net[0].weight
    assert FilterPrior.measured(net) == once
    assert FilterPrior.measured(net.state_dict()) == once


def test_parametrized_weights_are_measured_as_they_act():
    conv = nn.Conv2d(4, 4, 3)
    nn.utils.parametrize.register_parametrization(conv, "weight", nn.Softplus())
    assert FilterPrior.measured(conv) == FilterPrior.measured(conv.weight)
    with pytest.raises(InputError, match="give the module"):
        FilterPrior.measured(conv.state_dict())


def test_equal_taps_give_plain_l2_at_every_scale():
    signs = torch.where(torch.rand(16, 8, 3, 3, generator=seeded()) < 0.5, -1.0, 1.0)
    conv = nn.Conv2d(8, 16, 3)
    for scale in (1e-30, 1.0, 1e30):
        conv.weight.data = signs * scale
        prior = FilterPrior.measured(conv).uncorrelated()
        ones = torch.ones(3, 3, dtype=torch.float64)
        torch.testing.assert_close(prior.variance, ones, rtol=1e-12, atol=0)
        costs = LocoReg(conv, 0.1, prior).costs[""]
        torch.testing.assert_close(costs, ones, rtol=1e-12, atol=0)


@pytest.mark.parametrize("filters", [1, 4, 8, 9, 20])
def test_a_singular_prior_says_so(filters):
    prior = FilterPrior.measured(torch.randn(filters, 1, 3, 3, generator=seeded(filters)))
    assert prior.rank == min(filters, 9)
    assert prior.is_singular == (filters < 9)
    assert (f"singular: rank {filters} of 9" in repr(prior)) == (filters < 9)
    assert ("singular" in str(prior)) == (filters < 9)
    assert math.isinf(prior.condition) == (filters < 9)
    mended = prior.shrink(0.05)
    assert not mended.is_singular
    assert "singular" not in repr(mended)


def test_shrinkage_toward_a_family():
    weight = torch.randn(4, 4, 3, 3, generator=seeded())
    target = FilterPrior.correlated(3, lengthscale=0.8)
    raw = FilterPrior.measured(weight)
    found = FilterPrior.measured(weight, shrinkage=0.25, toward=target)
    expected = 0.75 * raw.covariance + 0.25 * target.covariance
    torch.testing.assert_close(found.covariance, expected, rtol=1e-12, atol=1e-12)
    whole = FilterPrior.measured(weight, shrinkage=1.0, toward=target)
    torch.testing.assert_close(whole.covariance, target.covariance, rtol=1e-14, atol=1e-14)


def test_layers_of_one_name_are_pooled_over_networks():
    networks = [create_model("plain_cnn", small_input=True, width=4, seed=seed) for seed in (1, 2)]
    pooled = measured_priors(networks, per="layer")
    for name in pooled:
        alone = [FilterPrior.measured(net, layer=name).covariance for net in networks]
        torch.testing.assert_close(pooled[name].covariance, (alone[0] + alone[1]) / 2)


def test_measured_priors_by_layer_and_by_kernel_size():
    net = network()
    by_layer = measured_priors(net, per="layer")
    assert list(by_layer) == ["stem", "body.0", "body.2", "up"]
    assert all(by_layer[name] == FilterPrior.measured(net, layer=name) for name in by_layer)
    target = FilterPrior.correlated(3)
    by_size = measured_priors(net, shrinkage=0.2, toward=target)
    assert list(by_size) == ["5x5", "3x3"]
    pooled = FilterPrior.measured(net, kernel_size=3, shrinkage=0.2, toward=target)
    assert by_size["3x3"] == pooled
    assert by_size["5x5"] == FilterPrior.measured(net, kernel_size=5, shrinkage=0.2)
    assert list(measured_priors(nn.Conv1d(2, 2, 7))) == ["7"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: FilterPrior.measured(nn.Linear(3, 3)), "no convolution"),
        (lambda p: FilterPrior.measured(torch.ones(3, 3)), r"shape \(3, 3\) is no convolution"),
        (lambda p: FilterPrior.measured(torch.ones(0, 2, 3, 3)), "holds no values"),
        (lambda p: FilterPrior.measured([1.0]), "list is no source of filters"),
        (lambda p: FilterPrior.measured(torch.full((1, 1, 3, 3), math.nan)), "not finite"),
        (lambda p: FilterPrior.measured(torch.zeros(1, 1, 3, 3)), "every weight of this weight"),
        (lambda p: FilterPrior.measured(network()), r"\(3, 3\) \(3\), \(5, 5\) \(1\)"),
        (lambda p: FilterPrior.measured(network(), kernel_size=7), r"no convolution.*\(7, 7\)"),
        (lambda p: FilterPrior.measured(network(), layer="blok"), "'blok' matches no conv"),
        (lambda p: FilterPrior.measured(network().state_dict(), layer="blok"), "'blok' matches"),
        (lambda p: FilterPrior.measured({"epoch": 3}), "'epoch' is a int and no tensor"),
        (lambda p: FilterPrior.measured({"fc.weight": torch.ones(2, 2)}), "no convolution"),
        (lambda p: FilterPrior.measured(p / "no.safetensors"), "there is no file or folder"),
        (lambda p: FilterPrior.measured(p), "there is no file or folder"),
        (lambda p: measured_priors(nn.Conv2d(3, 3, 1)), "every convolution is 1x1"),
        (lambda p: measured_priors(network(), per="size"), "per is 'size'"),
        (
            lambda p: measured_priors(network(), toward=FilterPrior.locality(3)),
            "toward is given and shrinkage is 0",
        ),
        (
            lambda p: FilterPrior.measured(nn.Conv2d(3, 3, 3), toward=FilterPrior.locality(3)),
            "toward is given and shrinkage is 0",
        ),
        (
            lambda p: measured_priors(network(), shrinkage=0.1, toward=FilterPrior.locality(7)),
            r"no convolution has the kernel size \(7, 7\)",
        ),
        (
            lambda p: FilterPrior.measured(
                nn.Conv2d(3, 3, 3), shrinkage=0.1, toward=FilterPrior.locality(5)
            ),
            r"\(5, 5\) and the prior \(3, 3\)",
        ),
    ],
)
def test_errors(call, message, tmp_path):
    with pytest.raises(InputError, match=message):
        call(tmp_path)
