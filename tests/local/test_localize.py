"""localize: the same function, everything that hung on the layer, and room to become local."""

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convprior import create_model
from convprior.errors import InputError
from convprior.local import (
    LocalConv1d,
    LocalConv2d,
    LowRankLocalConv1d,
    LowRankLocalConv2d,
    invariance_report,
    localize,
)

MODES = ["separable", "map", "rows", "columns", "input"]


def images(size=16, channels=3, dtype=torch.float32, n=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, channels, size, size, generator=generator).to(dtype)


def network(**options):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, **options),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, stride=2, **options),
    )


@torch.no_grad()
def difference(first, second, x):
    """The largest difference of outputs, relative to the largest output."""
    expected = first(x)
    return float((second(x) - expected).abs().max() / expected.abs().max())


def local_layers(net):
    return [m for m in net.modules() if isinstance(m, LowRankLocalConv2d)]


@pytest.mark.parametrize("normalize", ["softmax", "l2", None])
@pytest.mark.parametrize("weights", MODES)
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_the_function_stays(weights, normalize, rank):
    x, net = images(), network()
    options = {"weights": weights, "normalize": normalize}
    assert difference(net, localize(net, x, rank, **options), x) < 1e-6
    net, x = net.double(), x.double()
    local = localize(net, x, rank, **options)
    assert len(local_layers(local)) == 2
    assert difference(net, local, x) < 1e-12


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@settings(max_examples=40)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.one_of(
        st.sampled_from(["same", "valid"]), st.tuples(st.integers(0, 2), st.integers(0, 2))
    ),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2, 4]),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    bias=st.booleans(),
    rank=st.sampled_from([2, 3, "full"]),
)
def test_every_argument_is_kept(kernel, stride, padding, dilation, groups, mode, bias, rank):
    if padding == "same":
        stride = 1
    arguments = (4, 8, kernel, stride, padding, dilation, groups, bias, mode)
    conv = nn.Conv2d(*arguments, dtype=torch.float64)
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    net = nn.Sequential(conv)
    local = localize(net, x, rank, layers="0")
    assert difference(net, local, x) < 1e-12
    names = ("kernel_size", "padding", "dilation", "groups", "padding_mode")
    assert all(getattr(local[0], name) == getattr(conv, name) for name in names)
    assert (local[0].bias is not None) == bias


@pytest.mark.parametrize(
    ("name", "tolerance"),
    # Networks that are not trained amplify the rounding of their first layers, MobileNet most.
    [("plain_cnn", 1e-6), ("wrn16_2", 2e-6), ("googlenet", 3e-6), ("mobilenet_v2", 2e-5)],
)
def test_registry_networks(name, tolerance):
    x = images(8)
    net = create_model(name, small_input=True, seed=0).eval()
    convolutions = [
        m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)
    ]
    local = localize(net, x, rank=2)
    assert difference(net, local, x) < tolerance
    net, x = net.double(), x.double()
    local = localize(net, x, rank=2)
    assert difference(net, local, x) < 1e-12
    single = sum(layer.geometry.positions == 1 for layer in local_layers(local))
    assert single == 0
    assert 0.5 * len(convolutions) < len(local_layers(local)) <= len(convolutions)


def test_a_timm_network():
    net = timm.create_model("resnet18", num_classes=3).eval()
    x = images(32)
    local = localize(net, x, 2, layers=["conv1", "layer[12].*.conv*"])
    # Batch statistics of an untrained network are those of the unit normal: no amplification.
    assert difference(net, local, x) < 5e-6
    assert len(local_layers(local)) == 9
    assert type(local.layer2[0].downsample[0]) is nn.Conv2d


def test_half_precision_and_full_rank():
    x = images(dtype=torch.bfloat16)
    net = network().to(torch.bfloat16)
    for rank in (3, "full"):
        local = localize(net, x, rank)
        assert all(p.dtype is torch.bfloat16 for p in local.parameters())
        # A weight and an output are each rounded to 8 bits, in two layers.
        assert difference(net, local, x) < 4 * 2**-8
    assert isinstance(localize(net, x, "full")[0], LocalConv2d)


def test_one_dimension():
    net = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(4, 3, 5, stride=2)).double()
    x = torch.randn(2, 2, 20, dtype=torch.float64)
    local = localize(net, x, 3)
    assert [type(layer) for layer in local] == [LowRankLocalConv1d] * 2
    assert difference(net, local, x) < 1e-12
    full = localize(net, x, "full")
    assert isinstance(full[0], LocalConv1d)
    assert difference(net, full, x) < 1e-12


@pytest.mark.parametrize("normalize", ["softmax", None])
@pytest.mark.parametrize("weights", ["separable", "input"])
def test_training_leaves_the_convolutions(weights, normalize):
    x = images(12)
    net = localize(network(), x, 3, weights=weights, normalize=normalize, spatial_bias=False)
    before = invariance_report(net, x)
    assert all(layer.distance < 1e-12 for layer in before)
    # A task that depends on the position: the left half of the image alone.
    wanted = torch.zeros(2, 4, 5, 5)
    wanted[..., :2] = 1.0
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), wanted).backward()
        optimizer.step()
    after = invariance_report(net, x)
    assert all(layer.distance > 1e-4 for layer in after)


def test_equal_bases_with_equal_logits_would_stay_a_convolution():
    with pytest.raises(InputError, match="relative_noise is 0"):
        localize(network(), images(), 2, relative_noise=0.0)
    net = localize(network(), images(), 2, spatial_bias=False)
    for layer in local_layers(net):
        first, second = layer.bases.detach().clone()
        layer.bases.data.copy_(torch.stack([(first + second) / 2] * 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        (net(images()) - 1).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(*layer.bases.detach()) for layer in local_layers(net))


def test_the_noise():
    conv = nn.Conv2d(8, 4, 3)
    conv.weight.data[1] = 0.0
    net = nn.Sequential(conv, nn.Conv2d(4, 4, 3))
    x = images(12, 8)
    local = localize(net, x, 4, relative_noise=0.05, seed=3)
    delta = (local[0].bases - conv.weight).detach()
    assert float(delta.mean(0).abs().max()) < 1e-7
    for f in (0, 2, 3):
        size = conv.weight[f].detach().square().mean().sqrt()
        relative = delta[:, f].square().mean().sqrt() / size
        # The RMS of 4 * 72 normal numbers, 3 in 4 of them free: within 4 standard errors.
        assert relative.item() == pytest.approx(0.05, rel=4 / (2 * 3 * 72) ** 0.5)
    # A filter that is zero must be able to become local too.
    assert float(delta[:, 1].abs().min()) > 0
    assert not any(p.any() for n, p in local[0].named_parameters() if "logits" in n)
    again, other = localize(net, x, 4, relative_noise=0.05, seed=3), localize(net, x, 4)
    assert torch.equal(again[0].weight, local[0].weight)
    assert not torch.equal(other[0].weight, local[0].weight)
    # A layer's noise depends on its name, not on the others.
    alone = localize(net, x, 4, layers="0", relative_noise=0.05, seed=3)
    assert torch.equal(alone[0].weight, local[0].weight)


def test_without_a_softmax_sgd_moves_as_a_convolution():
    """Weights 1 / sqrt(K): the mean kernel has the gradient of the convolution, at any rank."""
    x, net = images(dtype=torch.float64), network().double()
    local = localize(net, x, 4, normalize=None)
    for model in (net, local):
        model(x).square().sum().backward()
    layer = local[0]
    # The change of the mean kernel through the bases alone, sum_k w_k (w_k grad).
    step = (layer.weight.grad.view_as(layer.bases) / 4**0.5).sum(0)
    assert torch.allclose(step, net[0].weight.grad, rtol=1e-9)
    norm = float(layer.weight.detach().square().sum() / net[0].weight.detach().square().sum())
    assert norm == pytest.approx(1.0, abs=1e-3)


def test_a_copy_unless_in_place():
    x, net = images(), network()
    before = copy.deepcopy(net.state_dict())
    local = localize(net, x, 2)
    assert [type(layer).__name__ for layer in net] == ["Conv2d", "ReLU", "Conv2d"]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not {id(p) for p in local.parameters()} & {id(p) for p in net.parameters()}
    bias, expected = net[0].bias, net(x)
    assert localize(net, x, 2, inplace=True) is net
    assert torch.allclose(net(x), expected, atol=1e-6)
    assert net[0].bias is bias


def test_a_convolution_alone():
    conv, x = nn.Conv2d(3, 4, 3), images()
    local = localize(conv, x, 2)
    assert isinstance(local, LowRankLocalConv2d)
    assert difference(conv, local, x) < 1e-6
    with pytest.raises(InputError, match=r"itself the Conv2d.*Sequential"):
        localize(conv, x, 2, inplace=True)


def test_layers_by_name_pattern_type_and_function():
    x, net = images(), network()

    def changed(layers):
        net_ = localize(net, x, 2, layers)
        return [n for n, m in net_.named_modules() if isinstance(m, LowRankLocalConv2d)]

    assert changed(None) == changed("*") == changed(nn.Conv2d) == ["0", "2"]
    assert changed("2") == changed(["2"]) == changed(lambda name, _: name == "2") == ["2"]
    assert changed(lambda _, conv: conv.stride == (1, 1)) == ["0"]
    net = nn.Sequential(net, nn.Conv2d(4, 2, 1))
    assert changed(None) == changed("0") == ["0.0", "0.2"]
    assert changed("1") == ["1"]


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 5, padding=1)

    def forward(self, a, *, b=None):
        return self.left(a).mean() + (0 if b is None else self.right(input=b).mean())


def test_inputs_of_every_kind():
    x, y = images(12), images(20)
    for example in ((x,), [x], {"a": x}):
        local = localize(Named(), example, 2)
        assert local.left.input_size == (12, 12)
        assert type(local.right) is nn.Conv2d
    local = localize(Named(), {"a": x, "b": y}, 2)
    assert local.right.input_size == (20, 20)
    # The argument has the name that a convolution gives it.
    for rank in (2, "full"):
        local = localize(Named(), {"a": x, "b": y}, rank)
        assert local(a=x, b=y).isfinite()
