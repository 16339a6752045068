"""Draws from a FilterPrior: their covariance, their scale, and what init_ keeps of a layer."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import skip_init

from convprior.errors import InputError
from convprior.filters import FilterPrior

FEW = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(1))
PRIORS = [
    FilterPrior.independent(3),
    FilterPrior.locality(3),
    FilterPrior.locality((3, 5), "linear", 0.5),
    FilterPrior.locality(4, "gaussian", 0.1, parameter=2.0, control="reversed"),
    FilterPrior.correlated(3, "squared_exponential", 1.0),
    FilterPrior.correlated((1, 5), "matern32", 2.0),
    FilterPrior.correlated((2, 3, 2), "exponential", 1.5),
    FilterPrior.mean_pool(2),
    FilterPrior.locality(1),
    FilterPrior.correlated(3) * FilterPrior.correlated(3, "exponential", 2.0),
    FilterPrior.correlated(3, "matern32").scaled(FilterPrior.locality(3)),
    FilterPrior.separable(FilterPrior.locality((3,)), FilterPrior.correlated((4,))),
    FilterPrior.measured(FEW),
    FilterPrior.measured(FEW, shrinkage=0.3, toward=FilterPrior.correlated(3)),
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_draws_have_the_covariance(prior):
    out, channels, gain = 60_000, 2, 1.3  # 120,000 filters
    draws = prior.sample(out, channels, seeded(), gain=gain, dtype=torch.float64)
    assert draws.shape == (out, channels, *prior.kernel_size)
    taps = math.prod(prior.kernel_size)
    rows = draws.reshape(-1, taps)
    expected = prior.covariance * gain**2 / (channels * taps)
    found = rows.T @ rows / len(rows)
    # Variance of a product of two normals is S_pp S_qq + S_pq^2 (Isserlis).
    spread = torch.outer(expected.diagonal(), expected.diagonal()) + expected**2
    error = (found - expected).abs() / (spread / len(rows)).sqrt()
    assert float(error.max()) < 4
    mean_error = rows.mean(0).abs() / (expected.diagonal() / len(rows)).sqrt()
    assert float(mean_error.max()) < 4


def test_independent_draw_is_he_initialization():
    ours = FilterPrior.independent(3).sample(16, 8, seeded())
    theirs = nn.init.kaiming_normal_(
        torch.empty(16, 8, 3, 3), nonlinearity="relu", generator=seeded()
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


MODULES = [
    (nn.Conv2d(4, 6, 3), 4),
    (nn.Conv2d(4, 6, 3, groups=2), 2),
    (nn.Conv2d(8, 8, 3, groups=8, bias=False), 1),
    (nn.ConvTranspose2d(4, 6, 3), 4),
    (nn.ConvTranspose2d(4, 6, 3, groups=2), 2),
    (nn.Conv2d(4, 6, 3, dtype=torch.bfloat16), 4),
    (nn.Conv2d(4, 6, 3, dtype=torch.float64), 4),
]


@pytest.mark.parametrize(("module", "fan_channels"), MODULES, ids=str)
def test_init_draws_in_place(module, fan_channels):
    weight, bias = module.weight, module.bias
    weight.requires_grad_(False)
    before = None if bias is None else bias.clone()
    dtype, shape, place = weight.dtype, weight.shape, weight.data_ptr()
    prior = FilterPrior.locality(3)
    assert prior.init_(module, seeded(3)) is module
    assert module.weight is weight
    assert (weight.dtype, weight.shape, weight.data_ptr()) == (dtype, shape, place)
    assert not weight.requires_grad
    assert bias is None or torch.equal(bias, before)
    # The same normals, so only the fan-in can differ.
    draw = prior.sample(shape[0], shape[1], seeded(3), dtype=dtype)
    scale = math.sqrt(shape[1] / fan_channels)
    torch.testing.assert_close(weight.data, draw * scale, rtol=1e-2, atol=1e-2)


def test_init_keeps_memory_format_and_works_in_every_dimension():
    conv = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    stride = conv.weight.stride()
    FilterPrior.locality(3).init_(conv, seeded())
    assert conv.weight.stride() == stride
    FilterPrior.locality((5,)).init_(nn.Conv1d(2, 3, 5))
    FilterPrior.correlated((3, 3, 3)).init_(nn.Conv3d(2, 3, 3))


def test_draws_are_a_function_of_the_generator():
    prior = FilterPrior.correlated(3)
    assert torch.equal(prior.sample(4, 2, seeded(1)), prior.sample(4, 2, seeded(1)))
    assert not torch.equal(prior.sample(4, 2, seeded(1)), prior.sample(4, 2, seeded(2)))


def test_parametrized_weights_are_not_drawn():
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    with pytest.raises(InputError, match="parametrized"):
        FilterPrior.independent(3).init_(conv)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(3, 4, 3, device="meta"), "is on the meta device"),
        (lambda: nn.LazyConv2d(4, 3), "is lazy and has no weight yet"),
        (lambda: nn.Conv2d(3, 4, 3, dtype=torch.complex64), "dtype is torch.complex64"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), r"redraw_\(net, seed=0, prior=prior, only_pr"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        FilterPrior.independent(3).init_(make())


@pytest.mark.parametrize(
    ("channels", "options", "message"),
    [
        ((1, 0), {}, "channels are 1 out and 0 in; give >= 1"),
        ((-1, 3), {}, "channels are -1 out and 3 in; give >= 1"),
        ((1, 1), {"gain": math.nan}, "gain is nan"),
        ((1, 1), {"gain": -1.0}, r"gain is -1\.0"),
        ((1, 1), {"gain": math.inf}, "gain is inf"),
        ((1, 1), {"dtype": torch.int32}, "dtype is torch.int32"),
    ],
)
def test_arguments_of_a_draw_are_checked(channels, options, message):
    with pytest.raises(InputError, match=message):
        FilterPrior.independent(3).sample(*channels, **options)


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
@pytest.mark.parametrize("normalize", ["trace", "sum"])
def test_second_moment_on_a_constant_input(prior, normalize):
    # On an input of ones a filter answers the sum of its taps: a normal number of variance
    # gain^2 (1' Sigma 1) / taps, or gain^2 when that is what the draw is normalized to.
    out, gain = 100_000, 1.5
    weight = prior.sample(out, 1, seeded(), gain=gain, dtype=torch.float64, normalize=normalize)
    expected = gain**2
    if normalize == "trace":
        expected *= float(prior.covariance.sum()) / prior.variance.numel()
    found = float(weight.flatten(1).sum(1).square().mean())
    # A squared normal number has variance 2 (its mean)^2.
    assert abs(found / expected - 1) < 4 * math.sqrt(2 / out)


@pytest.mark.parametrize(
    "prior",
    [
        FilterPrior.independent(3),
        FilterPrior.locality(3),
        FilterPrior.locality((1, 5), control="reversed"),
        FilterPrior.measured(FEW).uncorrelated(),
    ],
    ids=repr,
)
def test_a_deep_relu_network_keeps_its_second_moment(prior):
    # Given the maps before it, a layer's channels are independent normals z, and E relu(z)^2 = q
    # with gain^2 = 2. The mean of relu(z)^2 over n channels varies by Var = 5/n q^2 at most (all
    # positions alike), so after L layers the ratio has mean 1 and variance (1 + 5/n)^L - 1.
    channels, depth, runs = 256, 8, 8
    ratios = []
    for run in range(runs):
        generator = seeded(run)
        x = torch.randn(1, channels, 6, 6, generator=generator)
        start = x.square().mean()
        for _ in range(depth):
            conv = skip_init(nn.Conv2d, channels, channels, prior.kernel_size, bias=False)
            prior.init_(conv, generator)
            pad = [side for k in prior.kernel_size[::-1] for side in ((k - 1) // 2, k // 2)]
            x = conv(nn.functional.pad(x, pad, mode="circular")).relu().detach()
        ratios.append(float(x.square().mean() / start))
    spread = math.sqrt(((1 + 5 / channels) ** depth - 1) / runs)
    assert abs(sum(ratios) / runs - 1) < 4 * spread


def test_normalization_of_a_draw_is_checked():
    with pytest.raises(InputError, match="normalize is 'mean'"):
        FilterPrior.independent(3).sample(1, 1, normalize="mean")
    contrast = FilterPrior(torch.ones(1, 2), torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    with pytest.raises(InputError, match="sum to 0"):
        contrast.init_(nn.Conv2d(1, 1, (1, 2)), normalize="sum")
