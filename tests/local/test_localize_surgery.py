"""What hangs on a convolution survives its conversion, and what cannot be converted says so."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from convprior.errors import InputError
from convprior.local import LowRankLocalConv2d, invariance_report, localize, relax_

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
