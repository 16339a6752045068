"""Which convolutions are left alone or refused, and what localize says then."""

import copy

import pytest
import timm.layers
import torch
from torch import nn

from convprior.errors import InputError
from convprior.local import LowRankLocalConv2d, localize
from convprior.models import HeConv2d


def images(size=12, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, size, size, generator=generator).to(dtype)


def network(wrap=lambda conv: conv, kind=nn.Conv2d):
    torch.manual_seed(0)
    return nn.Sequential(kind(3, 6, 3, padding=1), nn.ReLU(), wrap(kind(6, 4, 3, stride=2)))


@torch.no_grad()
def difference(first, second, x):
    expected = first(x)
    return float((second(x) - expected).abs().max() / expected.abs().max())


def assert_untouched(net, make):
    """A change that is refused leaves the network as it was."""
    before, modules = copy.deepcopy(net.state_dict()), dict(net.named_modules())
    make()
    assert dict(net.named_modules()) == modules
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


class Plain(nn.Conv2d):
    pass


class Padded(nn.Conv2d):
    """The convolution with the padding of TensorFlow."""

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))


class Scaled(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, 2 * weight, bias)


def test_subclasses_are_left_alone_unless_asked():
    x = images()
    net = network(kind=Plain)
    with pytest.raises(InputError, match=r"no layer would change: '0', '2': is a Plain"):
        localize(net, x, 2)
    for options in ({"subclasses": True}, {"layers": Plain}, {"layers": ["0", "2"]}):
        local = localize(net, x, 2, **options)
        assert all(isinstance(local[i], LowRankLocalConv2d) for i in (0, 2))
        assert difference(net, local, x) < 1e-6
    with pytest.raises(InputError, match="is a Plain, a subclass of Conv2d"):
        localize(net, x, 2, "*")
    mixed = nn.Sequential(nn.Conv2d(3, 3, 3), Plain(3, 3, 3), HeConv2d(3, 3, 3))
    kinds = [type(layer) for layer in localize(mixed, x, 2)]
    assert kinds == [LowRankLocalConv2d, Plain, LowRankLocalConv2d]


def test_subclasses_that_compute_something_else_are_never_converted():
    x = images()
    for kind in (Padded, Scaled):
        with pytest.raises(InputError, match="'0' computes something else"):
            localize(network(kind=kind), x, 2, ["0"])
    with pytest.raises(InputError, match="no layer would change: '0', '2': computes something"):
        localize(network(kind=Scaled), x, 2, subclasses=True)
    # The second layer does not reach what is padded: for this input it is a convolution.
    net = network(kind=Padded)
    local = localize(net, x, 2, subclasses=True)
    assert [type(layer) for layer in local] == [Padded, nn.ReLU, LowRankLocalConv2d]
    assert difference(net, local, x) < 1e-6


class WithBranch(nn.Conv2d):
    """As LoRA has it: a branch that is zero until it is trained."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.branch = nn.Conv2d(self.in_channels, self.out_channels, 3, self.stride, self.padding)
        nn.init.zeros_(self.branch.weight)
        nn.init.zeros_(self.branch.bias)

    def forward(self, x):
        return super().forward(x) + self.branch(x)


class Gained(nn.Conv2d):
    localizable = True

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.register_buffer("gain", torch.ones(()))

    def forward(self, x):
        return self.gain * super().forward(x)


@pytest.mark.parametrize(("kind", "part"), [(WithBranch, "branch"), (Gained, "gain")])
def test_subclasses_with_parts_of_their_own_are_never_converted(kind, part):
    net, x = network(kind=kind), images()
    for options in ({"layers": ["0"]}, {"layers": kind}):
        with pytest.raises(InputError, match=f"'0' is a {kind.__name__} with {part} besides"):
            localize(net, x, 2, **options)
    mixed = nn.Sequential(kind(3, 3, 3), nn.Conv2d(3, 3, 3))
    local = localize(mixed, x, 2, lambda name, _: name in "01", subclasses=True)
    assert [type(layer) for layer in local] == [kind, LowRankLocalConv2d]


def test_what_users_hang_on_a_plain_convolution_stays():
    net, x = network(), images()
    net[0].scale = nn.Parameter(torch.tensor(3.0))
    net[0].act = nn.Tanh()
    net[0].register_buffer("weight_shift", torch.tensor(2.0))
    net[0].register_buffer("unsaved", torch.ones(()), persistent=False)
    net[0].register_forward_hook(lambda m, _, y: m.act(y) * m.scale + m.weight_shift)
    local = localize(net, x, 2)
    assert difference(net, local, x) < 1e-6
    assert {"0.scale", "0.weight_shift"} <= set(local.state_dict())
    assert "0.unsaved" not in local.state_dict()
    assert local[0].unsaved == 1


def test_own_subclass_of_a_convertible_class_is_left_alone():
    class Noisy(HeConv2d):
        def forward(self, x):
            return super().forward(x) + 1

    with pytest.raises(InputError, match="is a Noisy, a subclass"):
        localize(network(kind=Noisy), images(), 2)


def test_what_timm_pads_itself_is_left_alone():
    layers = timm.layers
    net = nn.Sequential(layers.Conv2dSame(3, 4, 3, stride=2), nn.Conv2d(4, 4, 3))
    assert type(localize(net, images(), 2)[0]) is layers.Conv2dSame
    with pytest.raises(InputError, match="'0' computes something else"):
        localize(net, images(), 2, "0")


def test_nothing_to_change_says_why():
    x = images()
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 4, 3), nn.Conv2d(4, 4, 14), nn.Conv2d(4, 4, 1)
    )
    with pytest.raises(InputError) as error:
        localize(net, x, 2)
    for part in (
        "'0', '3': has a kernel of one tap",
        "'1': is a ConvTranspose2d",
        "'2': has a single position",
    ):
        assert part in str(error.value)

    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x) if self.training else x

    with pytest.raises(InputError, match="'conv': was not run by the example input in eval"):
        localize(Unused(), x, 2)
    with pytest.raises(InputError, match="'0': has complex weights"):
        localize(nn.Sequential(nn.Conv2d(3, 4, 3, dtype=torch.cfloat)), x.to(torch.cfloat), 2)
    local = localize(network(), x, 2)
    with pytest.raises(InputError, match=r"'0', '2': is a LowRankLocalConv2d"):
        localize(local, x, 2)
    patched = network()
    for conv in (patched[0], patched[2]):
        conv.forward = conv.forward
    with pytest.raises(InputError, match="has had its forward replaced"):
        localize(patched, x, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": True}, "rank is True"),
        ({"rank": "all"}, "rank is 'all'"),
        ({"relative_noise": -1.0}, "relative_noise is -1.0"),
        ({"layers": "3"}, "'3' matches no convolution"),
        ({"layers": lambda *_: False}, "layers is a function that chose none"),
        ({"layers": 3}, "layers has 3"),
        ({"layers": []}, "layers is empty; name some, or give None"),
        ({"weights": "both"}, "weights is 'both'"),
        ({"normalize": "sum"}, "normalize is 'sum'"),
    ],
)
def test_errors_change_nothing(arguments, message):
    net = network()

    def make():
        with pytest.raises(InputError, match=message):
            localize(net, images(), **{"rank": 2, "inplace": True} | arguments)

    assert_untouched(net, make)


def test_errors_of_the_model():
    with pytest.raises(InputError, match="the model is a list"):
        localize([nn.Conv2d(3, 3, 3)], images(), 2)
    with pytest.raises(InputError, match="no convolution"):
        localize(nn.Linear(3, 3), images(), 2)
    with pytest.raises(InputError, match="is lazy"):
        localize(nn.Sequential(nn.LazyConv2d(3, 3)), images(), 2)
    net = network()
    # An example that does not fit fails as the network does, and leaves nothing behind.
    with pytest.raises(RuntimeError, match="channels"):
        localize(net, torch.randn(1, 5, 8, 8), 2, inplace=True)
    assert not net[0]._forward_hooks
    assert net.training


def test_wrappers():
    net, x = network(), images()
    wrapped = nn.DataParallel(net)
    local = localize(wrapped, x, 2)
    assert type(local) is nn.Sequential
    assert difference(net, local, x) < 1e-6
    with pytest.raises(InputError, match=r"in a DataParallel.*localize first"):
        localize(wrapped, x, 2, inplace=True)
    compiled = torch.compile(copy.deepcopy(net), backend="eager")
    compiled(x)
    local = localize(compiled, x, 2)
    assert type(local) is nn.Sequential
    assert localize(compiled, x, 2, inplace=True) is compiled
    assert isinstance(compiled._orig_mod[0], LowRankLocalConv2d)
    assert difference(net, compiled, x) < 1e-6
    part = nn.Sequential(torch.compile(nn.Conv2d(3, 3, 3), backend="eager"), nn.Conv2d(3, 3, 3))
    assert type(localize(part, x, 2)[1]) is LowRankLocalConv2d
    with pytest.raises(InputError, match="'0' is compiled on its own"):
        localize(part, x, 2, "0")


def test_a_distributed_network(tmp_path):
    net, x = network(), images()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(net)
        local = localize(wrapped, x, 2)
        with pytest.raises(InputError, match=r"in a DistributedDataParallel.*localize first"):
            localize(wrapped, x, 2, inplace=True)
        assert difference(net, local, x) < 1e-6
        # Every parameter takes part, so that no rank waits for one.
        wrapped = nn.parallel.DistributedDataParallel(local)
        wrapped(x).sum().backward()
        assert all(p.grad is not None for p in local.parameters())
    finally:
        torch.distributed.destroy_process_group()


def test_a_traced_network():
    net, x = network(), images()
    local = localize(torch.fx.symbolic_trace(net), x, 2)
    assert isinstance(local.get_submodule("0"), LowRankLocalConv2d)
    assert difference(net, local, x) < 1e-6


def test_a_network_without_memory():
    with torch.device("meta"):
        net, x = network(), torch.empty(2, 3, 12, 12)
    local = localize(net, x, 2)
    assert local(x).shape == net(x).shape
    assert local[0].weight.is_meta
