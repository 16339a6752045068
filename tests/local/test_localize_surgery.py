"""What hangs on a convolution survives its conversion, and what cannot be converted says so."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from convprior.errors import InputError
from convprior.local import LowRankLocalConv2d, invariance_report, localize, relax_
from convprior.models import HeConv2d

OLD_FUNCTIONS = {
    "weight_norm": lambda conv: nn.utils.weight_norm(conv),
    "spectral_norm": lambda conv: nn.utils.spectral_norm(conv),
    "pruned": lambda conv: prune.random_unstructured(conv, "weight", 0.5),
    "pruned twice": lambda conv: prune.l1_unstructured(
        prune.random_unstructured(conv, "weight", 0.5), "weight", 0.2
    ),
}


class Doubled(nn.Module):
    """A parametrization without an inverse."""

    def forward(self, weight):
        return 2 * weight


def chain(conv):
    parametrizations.weight_norm(conv)
    return parametrize.register_parametrization(conv, "weight", Doubled())


NEW_FUNCTIONS = {
    "weight_norm": parametrizations.weight_norm,
    "one norm": lambda conv: parametrizations.weight_norm(conv, dim=None),
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "chain": chain,
}


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


def test_hooks_stay_and_their_handles_remove_them():
    net, seen = network(), []
    conv = net[0]
    handles = [
        conv.register_forward_pre_hook(lambda m, args: seen.append(("pre", type(m)))),
        conv.register_forward_hook(lambda m, args, y: 2 * y),
        conv.register_forward_hook(
            lambda m, args, kwargs, y: seen.append(("after", type(m))), with_kwargs=True
        ),
        conv.register_full_backward_hook(lambda m, gx, gy: seen.append(("back", type(m)))),
        conv.register_full_backward_pre_hook(lambda m, gy: seen.append(("before", type(m)))),
        conv.register_state_dict_pre_hook(lambda m, prefix, _: seen.append(("save", type(m)))),
        conv.register_state_dict_post_hook(lambda m, *_: seen.append(("saved", type(m)))),
        conv.register_load_state_dict_pre_hook(lambda m, *_: seen.append(("load", type(m)))),
        conv.register_load_state_dict_post_hook(lambda m, _: seen.append(("loaded", type(m)))),
    ]
    x, expected = images(), net(images()).detach()
    seen.clear()
    localize(net, x, 2, inplace=True)
    # Two more forward passes: one finds the sizes, one compares the outputs.
    kinds = (nn.Conv2d, LowRankLocalConv2d)
    assert seen == [(when, kind) for kind in kinds for when in ("pre", "after")]
    seen.clear()
    y = net(x.requires_grad_())
    assert torch.allclose(y, expected, atol=1e-6)
    y.sum().backward()
    net.load_state_dict(net.state_dict())
    kinds = ("pre", "after", "before", "back", "save", "saved", "load", "loaded")
    assert seen == [(kind, LowRankLocalConv2d) for kind in kinds]
    for handle in handles:
        handle.remove()
    seen.clear()
    net(x).sum().backward()
    net.load_state_dict(net.state_dict())
    assert not seen


def test_a_copy_has_hooks_of_its_own():
    net, seen = network(), []
    net[0].register_forward_hook(lambda *_: seen.append(1))
    local = localize(net, images(), 2)
    local[0]._forward_hooks.clear()
    seen.clear()
    net(images())
    assert seen == [1]


def test_dtype_format_modes_and_gradients_stay():
    net = network().double().to(memory_format=torch.channels_last)
    net[0].weight.requires_grad_(False)
    net[2].bias.requires_grad_(False)
    net.train()
    net[2].eval()
    net[0].my_tag = "stem"
    x = images(dtype=torch.float64)
    local = localize(net, x, 3)
    assert all(p.dtype is torch.float64 for p in local.parameters())
    assert local[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not local[0].weight.is_contiguous()
    assert [layer.training for layer in local] == [True, True, False]
    assert local[0].my_tag == "stem"
    grads = {name for name, p in local.named_parameters() if p.requires_grad}
    assert grads == {"0.bias"} | {f"2.{n}" for n, _ in local[2].named_parameters()} - {"2.bias"}
    assert difference(net, local, x) < 1e-12
    again = pickle.loads(pickle.dumps(copy.deepcopy(local)))
    assert difference(net, again, x) < 1e-12
    fresh = localize(net, x, 3, seed=1)
    fresh.load_state_dict(local.state_dict())
    assert torch.equal(fresh(x), local(x))


def test_the_example_leaves_no_trace():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("noise", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            self.noise = torch.rand(())
            return x + self.noise

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), Counting())
    net.train()
    state, generator = copy.deepcopy(net.state_dict()), torch.random.get_rng_state()
    localize(net, images(), 2, inplace=True, weights="input")
    assert torch.equal(torch.random.get_rng_state(), generator)
    after = net.state_dict()
    assert all(torch.equal(after[n], state[n]) for n in state if n[0] in "13")
    assert all(module.training for module in net.modules())
    assert not net[1]._forward_hooks
    assert not net[0]._forward_hooks
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("name", NEW_FUNCTIONS)
@pytest.mark.parametrize("normalize", ["softmax", None])
def test_parametrizations_stay(name, normalize):
    x = images(dtype=torch.float64)
    net = network(NEW_FUNCTIONS[name]).double()
    for original in net[2].parametrizations.weight.parameters():
        original.data *= 1.5
    net.eval()
    local = localize(net, x, 3, normalize=normalize)
    layer = local[2]
    assert isinstance(layer, LowRankLocalConv2d)
    assert parametrize.is_parametrized(layer, "weight")
    assert not parametrize.is_parametrized(local[0])
    assert difference(net, local, x) < 1e-12
    # Each basis obeys the parametrization, also after training has moved it.
    before = invariance_report(local)["2"]
    assert before.distance < 1e-12
    assert before.effective_rank == 0
    optimizer = torch.optim.Adam(local.train().parameters(), 1e-2)
    wanted = torch.zeros(2, 4, 5, 5, dtype=torch.float64)
    wanted[..., :2] = 1.0
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.mse_loss(local(x), wanted).backward()
        optimizer.step()
    report = invariance_report(local.eval())["2"]
    assert report.distance > 1e-4
    assert report.basis_spread > 1e-4
    bases = layer.bases.detach()
    if name == "spectral_norm":
        norms = torch.linalg.matrix_norm(bases.flatten(2), ord=2)
        assert float((norms - 1).abs().max()) < 0.2
    if name == "orthogonal":
        # PyTorch draws the matrices that the parametrization starts from in float32.
        assert torch.allclose(bases @ bases.mT, torch.eye(3).double(), atol=1e-6)
    again = localize(net, x, 3, normalize=normalize, seed=5).eval()
    again.load_state_dict(local.state_dict())
    assert torch.equal(again(x), local(x))
    assert torch.equal(copy.deepcopy(local)(x), local(x))


@pytest.mark.parametrize("name", OLD_FUNCTIONS)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_parametrizations_by_hooks_become_those_of_today(name):
    x = images(dtype=torch.float64)
    net = network(OLD_FUNCTIONS[name]).double().eval()
    conv = net[2]
    conv.register_forward_hook(lambda _, __, y: 2 * y)
    # The weight that the hook leaves behind has a gradient's history now.
    expected = net(x).detach()
    local = localize(net, x, 2)
    assert parametrize.is_parametrized(local[2], "weight")
    assert not any(n.startswith("weight_") for n, _ in local[2].named_buffers(recurse=False))
    assert not local[2]._forward_pre_hooks
    assert len(local[2]._forward_hooks) == 1
    with torch.no_grad():
        assert torch.allclose(local(x), expected, rtol=1e-12, atol=1e-13)
    if name.startswith("pruned"):
        kept = conv.weight_mask.repeat(2, 1, 1, 1)
        local[2].zero_grad()
        local(x).sum().backward()
        gradient = local[2].parametrizations.weight.original.grad.flatten(0, 1)
        assert not gradient[kept == 0].any()
    local.load_state_dict(local.state_dict())


def test_parametrizations_that_cannot_stay():
    net, x = network(parametrizations.weight_norm), images()
    with pytest.raises(InputError, match="'2' is parametrized, which a kernel for each position"):
        localize(net, x, "full")
    with pytest.raises(InputError, match=r"'2' is parametrized.*normalize='l2'.*'softmax'"):
        localize(net, x, 2, normalize="l2")
    with pytest.raises(InputError, match="'2' is parametrized; relax it before"):
        relax_(net, x)
    net = network()
    parametrize.register_parametrization(net[2], "bias", Doubled())
    with pytest.raises(InputError, match="'2' has a parametrized bias"):
        localize(net, x, 2, ["0", "2"])
    assert difference(net, localize(net, x, 2), x) < 1e-6


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.same = nn.ModuleList([self.conv])

    def forward(self, x, shrink=False):
        x = self.conv(x)
        return self.same[0](x[..., ::2, ::2] if shrink else x)


def test_a_module_used_twice_stays_one():
    net, x = Reused(), images()
    local = localize(net, x, 2)
    assert local.conv is local.same[0]
    assert difference(net, local, x) < 1e-6
    assert difference(net, localize(net, x, 2, "same.0"), x) < 1e-6
    with pytest.raises(InputError, match=r"'conv' sees inputs of sizes \(6, 6\) and \(12, 12\)"):
        localize(net, (x, True), 2)


def test_tied_weights_stay_tied():
    net, x = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)), images()
    net[1].weight, net[1].bias = net[0].weight, net[0].bias
    local = localize(net, x, 2)
    assert local[0].weight is local[1].weight
    assert local[0].bias is local[1].bias
    assert local[0].input_size != local[1].input_size
    assert difference(net, local, x) < 1e-6
    with pytest.raises(InputError, match=r"'0' shares its weight with 1.weight"):
        localize(net, x, 2, "0")
    with pytest.raises(InputError, match="'0' and '1' share a weight"):
        localize(net, x, "full")
    net[1].weight = nn.Parameter(net[0].weight.detach().clone())
    with pytest.raises(InputError, match="'0' and '1' share a bias, which would become one for"):
        localize(net, x, "full")
    with pytest.raises(InputError, match=r"'0' shares its bias with 1.bias"):
        localize(net, x, "full", layers="0")
    net[1].weight = net[0].weight
    relax_(net, x, rank=2)
    assert net[0].weight is net[1].weight


def test_a_layer_that_is_kept_outside_the_modules():
    """The list would go on to use the convolution."""

    class Listed(nn.Sequential):
        def forward(self, x):
            for conv in self.used:
                x = conv(x)
            return x

    net = Listed(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    net.used = [net[0]]
    with pytest.raises(InputError, match="'0' is also in used, which is no registered module"):
        localize(net, images(), 2, "0")


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
    layers = pytest.importorskip("timm.layers")
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
