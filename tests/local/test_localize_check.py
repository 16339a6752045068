"""localize compares outputs and refuses a changed function; localizable says what is skipped."""

import copy
from dataclasses import make_dataclass

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d
from torch.nn.utils import parametrizations

from convprior import create_model
from convprior.errors import InputError
from convprior.local import LowRankLocalConv2d, delocalize, localizable, localize

Pair = make_dataclass("Pair", ["first", "second"])

READS = {
    "convolves": lambda conv, x: conv(x) + conv2d(x, conv.weight, padding=1),
    "penalty": lambda conv, x: conv(x) + conv.weight.square().sum(),
    "sequence": lambda conv, x: (x, [conv(x) * conv.weight.std()]),
    "mapping": lambda conv, x: {"y": conv(x), "penalty": conv.weight.square().sum()},
    "dataclass": lambda conv, x: Pair(conv(x), conv.weight.norm()),
    "shape": lambda conv, x: conv(x)[:, : conv.weight.shape[0] // 2],
}


class Reader(nn.Module):
    def __init__(self, read):
        super().__init__()
        self.first, self.conv, self.read = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), read

    def forward(self, x):
        return self.read(self.conv, self.first(x))


def images(size=10, dtype=torch.float32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(dtype)


def with_hooks(net):
    calls = []
    parametrizations.weight_norm(net.first)
    handle = net.conv.register_forward_hook(lambda m, *_: calls.append(type(m)))
    net.conv.register_state_dict_pre_hook(lambda m, *_: calls.append(type(m)))
    return net, calls, handle


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", READS)
def test_a_network_that_reads_a_weight_is_refused(name, inplace):
    net, calls, handle = with_hooks(Reader(READS[name]))
    before, modules = copy.deepcopy(net.state_dict()), dict(net.named_modules())
    hooks = [len(m._state_dict_pre_hooks) for m in net.modules()]
    with pytest.raises(InputError, match=r"read the weight .*; leave 'conv' out through layers="):
        localize(net, images(), 2, inplace=inplace)
    assert dict(net.named_modules()) == modules
    assert [len(m._state_dict_pre_hooks) for m in net.modules()] == hooks
    calls.clear()
    assert all(torch.equal(before[n], value) for n, value in net.state_dict().items())
    net(images())
    assert calls == [nn.Conv2d] * 2
    handle.remove()
    net(images())
    assert calls == [nn.Conv2d] * 2
    # The other layer can still become local.
    assert isinstance(localize(net, images(), 2, "first").first, LowRankLocalConv2d)


def test_what_cannot_be_compared_is_not():
    class Opaque:
        def __init__(self, y):
            self.y = y

    assert localize(Reader(lambda conv, x: Opaque(conv(x))), images(), 2)
    largest = Reader(lambda conv, x: conv(x).flatten(1).argmax(1) + 0 * len(conv.weight))
    assert localize(largest, images(), 2)
    infinite = Reader(lambda conv, x: conv(x) / torch.zeros(()))
    assert localize(infinite, images(), 2)


def test_the_example_may_be_written_into():
    class Writing(nn.Sequential):
        def forward(self, x):
            return super().forward(x.add_(1.0) + torch.rand(()))

    net, x = Writing(nn.Conv2d(3, 4, 3)), images()
    kept = x.clone()
    for example in (x, [x], {"x": x}):
        assert isinstance(localize(net, example, 2)[0], LowRankLocalConv2d)
        assert torch.equal(x, kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_rounding_is_no_difference(dtype):
    """The network that amplifies rounding most."""
    net = create_model("mobilenet_v2", small_input=True, seed=0).to(dtype)
    assert localize(net, images(8, dtype), 2)


@pytest.mark.parametrize("rank", [2, 3, 8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_bases_have_the_sum_of_the_weight(dtype, rank):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 16, 3)).to(dtype)
    weight = net[0].weight.detach().double()
    layer = localize(net, images(8, dtype)[:, :1].repeat(1, 8, 1, 1), rank)[0]
    mean = layer.bases.detach().double().mean(0)
    # Bases rounded each on its own are off by 1e-4 to 9e-4 in bfloat16.
    assert float((mean - weight).norm() / weight.norm()) < 1e-5
    back = delocalize(layer).weight.detach().double()
    assert float((back - weight).norm() / weight.norm()) < 1e-5


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 4, 3), nn.Conv2d(4, 4, 10)
    )


def test_localizable_says_what_and_why():
    net, x = network(), images()
    before = copy.deepcopy(net.state_dict())
    found = localizable(net, x)
    local = localize(net, x, 2)
    changed = [n for n, m in local.named_modules() if isinstance(m, LowRankLocalConv2d)]
    assert [layer.name for layer in found if layer.reason is None] == changed == ["0"]
    assert [layer.input_size for layer in found] == [(10, 10), None, None, (10, 10)]
    assert len(found.rows()) == len(found) == 4
    text = str(found)
    for part in ("10x10", "no: has a kernel of one tap", "no: is a ConvTranspose2d", "single pos"):
        assert part in text
    assert text.splitlines()[2].endswith("yes")
    assert all(torch.equal(before[n], value) for n, value in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())
    # A pattern means kernels of one tap too.
    assert [layer.reason for layer in localizable(net, x, ["[013]"])] == [None] * 3


def test_localizable_raises_for_no_layer_that_cannot():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, x):
            return self.conv(self.conv(x))

    (layer,) = localizable(Twice(), images())
    assert layer.input_size is None
    assert layer.reason.startswith("sees inputs of sizes (8, 8) and (10, 10)")
    (layer,) = localizable(network(), images(), "2")
    assert layer.reason.startswith("is a ConvTranspose2d")
    with pytest.raises(InputError, match="'5' matches no convolution"):
        localizable(network(), images(), "5")
