"""redraw_: a function of the seed and the names alone, from each layer's own law or a prior."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from convprior.errors import InputError
from convprior.filters import FilterPrior, redraw_


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1)),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


def values(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_redraw_depends_on_seed_and_names_alone():
    net, other = network(), network()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert redraw_(net, seed=1) == ()
    assert torch.equal(torch.random.get_rng_state(), before)
    first = values(net)
    torch.randn(100)
    redraw_(other, seed=1)
    assert_equal(values(other), first)
    redraw_(net, seed=2)
    changed = {name for name, tensor in values(net).items() if not torch.equal(tensor, first[name])}
    assert changed == {f"{n}.{p}" for n in ("0", "3.0", "3.1", "6") for p in ("weight", "bias")}
    # A layer does not notice what else is in the network.
    smaller = nn.Sequential(nn.Conv2d(3, 8, 3))
    redraw_(smaller, seed=1)
    assert torch.equal(smaller[0].weight, first["0.weight"])
    assert not torch.equal(first["0.bias"], first["3.0.bias"])


def test_a_layer_draws_by_its_own_law():
    net = nn.Sequential(nn.Conv2d(16, 4000, 3), nn.BatchNorm2d(4))
    net[1].running_mean.fill_(3.0)
    net[1].num_batches_tracked.fill_(7)
    net[1].weight.data.fill_(2.0)
    redraw_(net, seed=0)
    # PyTorch's own law: uniform in +-1/sqrt(fan_in), whose square has variance 4/45 of bound^4.
    weight, bound = net[0].weight.detach().double(), 1 / math.sqrt(16 * 9)
    assert float(weight.abs().max()) <= bound
    error = float(weight.square().mean()) / bound**2 - 1 / 3
    assert abs(error) < 4 * math.sqrt(4 / 45 / weight.numel())
    assert net[1].running_mean.abs().sum() == 0
    assert net[1].num_batches_tracked == 0
    assert torch.equal(net[1].weight, torch.ones(4))


def test_parameters_stay_the_same_objects():
    net = network().double().to(memory_format=torch.channels_last)
    net[0].weight.requires_grad_(False)
    before = dict(net.named_parameters())
    layout = {n: (p.data_ptr(), p.dtype, p.stride(), p.requires_grad) for n, p in before.items()}
    old = net[0].weight.clone()
    redraw_(net, seed=3, prior=FilterPrior.locality(3))
    after = dict(net.named_parameters())
    for name, parameter in after.items():
        assert parameter is before[name]
        kept = (parameter.data_ptr(), parameter.dtype, parameter.stride(), parameter.requires_grad)
        assert kept == layout[name]
    assert not torch.equal(net[0].weight, old)


def test_a_prior_draws_the_convolutions_it_covers():
    net, plain = network(), network()
    prior = FilterPrior.correlated(3)
    redraw_(net, seed=4, prior=prior)
    redraw_(plain, seed=4)
    ours, own = values(net), values(plain)
    changed = {name for name in own if not torch.equal(ours[name], own[name])}
    assert changed == {"0.weight", "3.0.weight"}
    # The same draw whatever the key was that led to it.
    keyed = {"0": prior, "3.*": FilterPrior.locality(3)}
    redraw_(plain, seed=4, prior=keyed)
    assert torch.equal(plain[0].weight, net[0].weight)
    assert not torch.equal(plain[3][0].weight, net[3][0].weight)
    redraw_(plain, seed=4, prior={"3x3": prior})
    assert_equal(values(plain), ours)


@pytest.mark.parametrize("prior", [None, FilterPrior.locality(3)], ids=["own", "prior"])
def test_equal_layers_draw_different_weights(prior):
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    redraw_(net, seed=1, prior=prior)
    assert not torch.equal(net[0].weight, net[1].weight)
    assert not torch.equal(net[0].bias, net[1].bias)


def test_draws_from_a_prior_have_its_covariance():
    prior = FilterPrior.correlated(3, "matern32").scaled(FilterPrior.locality(3))
    net = nn.Sequential(nn.Conv2d(4, 30_000, 3, bias=False))
    redraw_(net, seed=0, prior=prior)
    rows = net[0].weight.detach().double().reshape(-1, 9)  # 120,000 filters
    expected = prior.covariance * 2 / (4 * 9)
    found = rows.T @ rows / len(rows)
    # Isserlis: the product of two normals has variance S_pp S_qq + S_pq^2.
    spread = torch.outer(expected.diagonal(), expected.diagonal()) + expected**2
    assert float(((found - expected).abs() / (spread / len(rows)).sqrt()).max()) < 4


def test_wrappers_change_nothing():
    net = network()
    redraw_(net, seed=6, prior=FilterPrior.locality(3))
    other = network()
    redraw_(torch.compile(other, backend="eager"), seed=6, prior=FilterPrior.locality(3))
    assert_equal(values(other), values(net))
    inside = nn.Sequential(torch.compile(nn.Conv2d(3, 8, 3), backend="eager"))
    redraw_(inside, seed=6, prior=FilterPrior.locality(3))
    assert torch.equal(next(inside.parameters()), net[0].weight)
    redraw_(nn.DataParallel(other), seed=6)
    redraw_(net, seed=6)
    assert_equal(values(other), values(net))


@pytest.mark.parametrize("prior", [None, FilterPrior.locality(3)], ids=["own", "prior"])
def test_tied_weights_get_the_draw_of_the_first(prior):
    alone = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    tied = copy.deepcopy(alone)
    tied[1].weight = tied[0].weight
    for net in (alone, tied):
        redraw_(net, seed=1, prior=prior)
    assert torch.equal(tied[0].weight, alone[0].weight)
    assert torch.equal(tied[1].bias, alone[1].bias)


class Scaled(nn.Module):
    """A parent that has the last word on its child, and a parameter that nobody draws."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def reset_parameters(self):
        nn.init.zeros_(self.conv.bias)


def test_parents_come_after_their_children_and_priors_last():
    net = Scaled()
    prior = FilterPrior.locality(3)
    redraw_(net, seed=1, prior=prior)
    assert net.conv.bias.abs().sum() == 0
    plain = nn.ModuleDict({"conv": nn.Conv2d(3, 3, 3)})
    redraw_(plain, seed=1, prior=prior)
    assert torch.equal(net.conv.weight, plain["conv"].weight)


def test_what_no_layer_draws_is_named():
    net = network()
    net.register_parameter("token", nn.Parameter(torch.ones(3)))
    net[3].register_parameter("scale", nn.Parameter(torch.ones(3)))
    assert redraw_(net, seed=0) == ("token", "3.scale")
    assert torch.equal(net.token, torch.ones(3))


@pytest.mark.parametrize(
    ("net", "prior", "message"),
    [
        (parametrizations.weight_norm(nn.Linear(2, 2)), None, "'' has a parametrized weight"),
        (prune.identity(nn.Linear(2, 2), "weight"), None, "'' has a parametrized weight"),
        (network(), FilterPrior.locality(5), r"\(5, 5\)"),
        (network(), {"stem": FilterPrior.locality(3)}, "'stem' matches no convolution"),
        (network(), {"3.1": FilterPrior.locality(3)}, r"'3\.1' has kernel size"),
        (nn.Linear(2, 2, device="meta"), None, "'' is on the meta device"),
    ],
)
def test_errors_leave_everything_as_it_was(net, prior, message):
    before = values(net)
    with pytest.raises(InputError, match=message):
        redraw_(net, seed=0, prior=prior)
    if not any(tensor.is_meta for tensor in before.values()):
        assert_equal(values(net), before)


def test_only_the_prior_leaves_the_rest_exactly_as_it_is():
    net = network()
    net[1].weight.data.zero_()
    net[1].running_mean.fill_(3.0)
    net.append(parametrizations.weight_norm(nn.Linear(2, 2)))
    whole, before = copy.deepcopy(net[:7]), values(net)
    prior = FilterPrior.correlated(3)
    state = torch.random.get_rng_state()
    left = redraw_(net, seed=4, prior=prior, only_prior=True)
    assert torch.equal(torch.random.get_rng_state(), state)
    after = values(net)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"0.weight", "3.0.weight"}
    assert set(left) == {name for name, _ in net.named_parameters()} - changed
    redraw_(whole, seed=4, prior=prior)
    assert all(torch.equal(values(whole)[name], after[name]) for name in changed)


def test_only_the_prior_with_tied_and_parametrized_layers():
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, device="meta"))
    net[1].weight = net[0].weight
    alone = nn.Sequential(nn.Conv2d(4, 4, 3))
    for one in (net, alone):
        redraw_(one, seed=1, prior=FilterPrior.locality(3), only_prior=True)
    assert torch.equal(net[0].weight, alone[0].weight)
    alone.append(parametrizations.weight_norm(nn.Conv2d(4, 4, 3)))
    before = values(alone)
    with pytest.raises(InputError, match="'1' has a parametrized weight"):
        redraw_(alone, seed=2, prior=FilterPrior.locality(3), only_prior=True)
    assert_equal(values(alone), before)
    with pytest.raises(InputError, match="there is no prior; give prior="):
        redraw_(alone, seed=2, only_prior=True)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_lazy_layers_are_refused():
    with pytest.raises(InputError, match="'0' is lazy"):
        redraw_(nn.Sequential(nn.LazyConv2d(4, 3)), seed=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_cuda_device():
    net = network().cuda()
    before = torch.cuda.get_rng_state()
    redraw_(net, seed=1, prior=FilterPrior.locality(3))
    assert torch.equal(torch.cuda.get_rng_state(), before)
    first = values(net)
    torch.randn(9, device="cuda")
    redraw_(net, seed=1, prior=FilterPrior.locality(3))
    assert_equal(values(net), first)
    host = network()
    redraw_(host, seed=1, prior=FilterPrior.locality(3))
    assert torch.equal(host[0].weight, net[0].weight.cpu())
