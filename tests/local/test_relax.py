"""relax_: fresh local layers, a function of the seed and their names; the shuffled control."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from convprior import create_model
from convprior.errors import InputError
from convprior.filters import redraw_
from convprior.local import LocalConv2d, LowRankLocalConv1d, LowRankLocalConv2d, relax_
from convprior.local.layers.shuffled import ShuffledLocalConv2d


def images(size=8, channels=3):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2))


def relaxed(seed=0, **options):
    net = network()
    assert relax_(net, images(), seed=seed, **options) == ("0", "2")
    return net


@pytest.mark.parametrize("kind", ["low_rank", "local", "spatial_bias"])
def test_kinds(kind):
    net = relaxed(kind=kind)
    expected = LocalConv2d if kind == "local" else LowRankLocalConv2d
    assert [type(net[i]) for i in (0, 2)] == [expected] * 2
    y = net(images())
    y.square().mean().backward()
    assert y.shape == network()(images()).shape
    # In a convolution plus spatial bias no logit has an effect.
    grads = [p.grad for n, p in net.named_parameters() if kind == "local" or "logits" not in n]
    assert all(grad is not None and bool(grad.any()) for grad in grads)
    if kind == "spatial_bias":
        assert net[0].rank == 1
        assert net[0].row_bias.shape == (8,)


@pytest.mark.parametrize("options", [{}, {"weights": "input"}, {"kind": "local"}])
def test_a_draw_depends_on_seed_and_name_alone(options):
    state = torch.random.get_rng_state()
    net = network()
    before = torch.random.get_rng_state()
    relax_(net, images(), seed=3, **options)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.random.set_rng_state(state)
    first = copy.deepcopy(net.state_dict())
    torch.randn(7)
    for again in (relaxed(3, **options), net):
        # It is the draw that the layer gets from redraw_ too.
        redraw_(again, seed=3)
        assert all(torch.equal(first[n], value) for n, value in again.state_dict().items())
    alone = network()
    relax_(alone, images(), seed=3, layers="2", **options)
    assert torch.equal(alone[2].weight, net[2].weight)
    assert type(alone[0]) is nn.Conv2d
    assert not torch.equal(relaxed(4, **options)[0].weight, net[0].weight)


def test_a_fresh_layer_is_a_convolution_with_the_usual_variance():
    net = nn.Sequential(nn.Conv2d(64, 64, 3))
    relax_(net, images(8, 64), rank=4)
    kernels = net[0].combined_kernels().detach()
    assert torch.allclose(kernels, kernels[:1, :1].expand_as(kernels))
    # The variance of n normal numbers is known to sqrt(2 / n); within 4 standard errors.
    n = 64 * 64 * 9
    assert kernels[0, 0].var().item() == pytest.approx(2 / (64 * 9), rel=4 * (2 / n) ** 0.5)
    authors = nn.Sequential(nn.Conv2d(64, 64, 3))
    relax_(authors, images(8, 64), rank=4, init="authors")
    ratio = authors[0].combined_kernels()[0, 0].detach().var() / kernels[0, 0].var()
    assert ratio.item() == pytest.approx(1 / 4, rel=0.1)


def test_what_hangs_on_a_layer_stays():
    net, seen = network().double().to(memory_format=torch.channels_last).eval(), []
    net[0].register_forward_hook(lambda m, *_: seen.append(type(m)))
    net[0].weight.requires_grad_(False)
    relax_(net, images().double(), rank=2)
    seen.clear()
    net(images().double())
    assert seen == [LowRankLocalConv2d]
    assert all(p.dtype is torch.float64 for p in net.parameters())
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert [n for n, p in net[0].named_parameters() if p.requires_grad] == ["bias"]
    assert not net[0].training


def test_a_network_of_the_registry_trains():
    net = create_model("plain_cnn", small_input=True, seed=0)
    assert len(relax_(net, images(), rank=2, seed=0)) == 4
    before = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    nn.functional.cross_entropy(net(images()), torch.tensor([0, 1])).backward()
    optimizer.step()
    changed = {n for n, value in net.state_dict().items() if not torch.equal(value, before[n])}
    assert {f"conv{i}.0.weight" for i in (1, 2, 3, 4)} <= changed


@pytest.mark.parametrize("weights", ["separable", "rows", "columns", "input"])
def test_shuffled_positions(weights):
    net = relaxed(2, weights=weights, rank=3, shuffle_positions=True).double()
    layer, x = net[0], images().double()
    assert isinstance(layer, ShuffledLocalConv2d)
    plain = LowRankLocalConv2d(
        3, 6, 3, padding=1, dtype=torch.float64, input_size=8, rank=3, weights=weights
    )
    missing = plain.load_state_dict(layer.state_dict(), strict=False)
    assert missing.unexpected_keys == ["position_order"]
    assert not missing.missing_keys
    # A fresh layer treats all positions the same, and so knows no order.
    assert torch.allclose(layer(x), plain(x))
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    layer.load_state_dict(plain.state_dict(), strict=False)
    order = layer.position_order
    assert sorted(order.tolist()) == list(range(64))
    expected = plain.combining_weights(x).flatten(-2)[..., order].unflatten(-1, (8, 8))
    assert torch.equal(layer.combining_weights(x), expected)
    bias = plain.spatial_bias_map().flatten()[order].view(8, 8)
    assert torch.equal(layer.spatial_bias_map(), bias)
    parts = [nn.functional.conv2d(x, basis, padding=1) for basis in plain.bases]
    y = torch.einsum("nkhw,nkfhw->nfhw", expected.expand(2, -1, -1, -1), torch.stack(parts, 1))
    y = y + plain.bias[:, None, None] + bias
    assert torch.allclose(layer(x), y, atol=1e-12)
    if weights != "input":
        assert torch.allclose(layer.to_local()(x), y, atol=1e-12)


def test_the_order_is_seeded_and_kept():
    first, again = (relaxed(1, shuffle_positions=True) for _ in range(2))
    other, plain = relaxed(2, shuffle_positions=True), relaxed(1)
    assert torch.equal(first[0].position_order, again[0].position_order)
    assert not torch.equal(first[0].position_order, other[0].position_order)
    assert torch.equal(first[0].weight, plain[0].weight)
    redraw_(first, seed=9)
    assert torch.equal(first[0].position_order, again[0].position_order)
    other.load_state_dict(again.state_dict())
    assert torch.equal(other[0].position_order, again[0].position_order)
    twice = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1))
    relax_(twice, images(), shuffle_positions=True)
    assert not torch.equal(twice[0].position_order, twice[1].position_order)
    with pytest.raises(InputError, match="positions are shuffled"):
        first[0].resize_positions(10)


def test_one_dimension():
    net = nn.Sequential(nn.Conv1d(2, 3, 3))
    relax_(net, torch.randn(1, 2, 9), rank=2)
    assert isinstance(net[0], LowRankLocalConv1d)
    assert net(torch.randn(1, 2, 9)).shape == (1, 3, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "lrlc"}, "kind is 'lrlc'"),
        ({"rank": 0}, "rank is 0"),
        ({"layers": "1"}, "'1' matches no convolution"),
        ({"shuffle_positions": True, "weights": "map"}, "weights is 'map'"),
        ({"shuffle_positions": True, "kind": "local"}, "shuffle_positions changes nothing"),
        ({"init": "he"}, "init is 'he'"),
    ],
)
def test_errors_change_nothing(options, message):
    net = network()
    with pytest.raises(InputError, match=message):
        relax_(net, images(), **options)
    assert [type(layer) for layer in net] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    net = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 3, 3)))
    with pytest.raises(InputError, match="parametrized"):
        relax_(net, images())
    with pytest.raises(InputError, match=r"in a DataParallel.*relax it first"):
        relax_(nn.DataParallel(network()), images())
