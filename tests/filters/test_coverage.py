"""Which layers LocoReg covers: selection, ties, wrappers, parametrizations, frozen weights."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.distributed import HashStore, destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrizations, parametrize, prune

from convprior.errors import InputError
from convprior.filters import FilterPrior, LocoReg, tap_costs
from convprior.filters.reference import reference_penalty


def model():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    return nn.ModuleDict(
        {
            "stem": nn.Conv2d(3, 4, 3),
            "block": block,
            "up": nn.ConvTranspose2d(4, 4, 2),
            "head": nn.Linear(4, 2),
        }
    )


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ({}, ["stem", "block.0", "block.2", "up"]),
        ({"include": "block"}, ["block.0", "block.2"]),
        ({"include": "*.0"}, ["block.0"]),
        ({"include": ["stem", "up"]}, ["stem", "up"]),
        ({"include": nn.ConvTranspose2d}, ["up"]),
        ({"exclude": "stem"}, ["block.0", "block.2", "up"]),
        ({"exclude": (nn.ConvTranspose2d, "block.2")}, ["stem", "block.0"]),
        ({"include": "block", "exclude": "block.0"}, ["block.2"]),
    ],
)
def test_selection(selection, names):
    network = model()
    assert list(LocoReg(network, 0.1, **selection).costs) == names
    covered, rest = LocoReg.param_groups(network, 0.5, **selection)
    expected = [id(network.get_submodule(name).weight) for name in names]
    assert sorted(map(id, covered["params"])) == sorted(expected)
    assert (covered["weight_decay"], rest["weight_decay"]) == (0.0, 0.5)
    everything = [id(p) for group in (covered, rest) for p in group["params"]]
    assert sorted(everything) == sorted(map(id, network.parameters()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LocoReg(nn.Linear(2, 2), 0.1), "no matching layer.*no convolution;"),
        (lambda: LocoReg(model(), 0.1, include="blok"), "'blok' matches no convolution.*stem"),
        (lambda: LocoReg(model(), 0.1, include=nn.Linear), "Linear matches no convolution"),
        (lambda: LocoReg(model(), 0.1, exclude="head"), "'head' matches no convolution"),
        (lambda: LocoReg(model(), 0.1, exclude=["stem", "block", "up"]), "no matching layer"),
        (lambda: LocoReg(model(), 0.1, include=[]), "no matching layer"),
        (lambda: LocoReg(nn.LazyConv2d(4, 3), 0.1), "lazy.*one batch"),
        (lambda: LocoReg(None, 0.1), "the model is a NoneType; give a torch.nn.Module"),
        (lambda: LocoReg(model().parameters(), 0.1), "the model is a generator"),
        (lambda: LocoReg(model(), 0.1, include=[3]), "include has 3; give names, patterns"),
        (lambda: LocoReg(model(), 0.1, exclude=3), "exclude has 3; give names, patterns"),
        (lambda: LocoReg(model(), 0.1, "quadratc"), "did you mean 'quadratic'.*FilterPrior or a"),
        (lambda: LocoReg(model(), 0.1, schedule="linear"), "schedule is 'linear'; give a mapping"),
        (lambda: LocoReg(model(), 0.1, schedule={3: 1.0}), "schedule names 3"),
        (lambda: LocoReg(model(), 0.1, schedule={"stem": "a"}), "the factor a; give one >= 0"),
        (lambda: LocoReg(model(), 0.1, floor="a"), "floor is 'a'"),
        (lambda: LocoReg(model(), 0.1, schedule={"blok": 2.0}), "schedule names 'blok'"),
        (lambda: LocoReg(model(), 0.1, schedule={"stem": -1.0}), "factor -1.0"),
        (lambda: LocoReg(model(), 0.1, schedule=lambda t: t - 0.5), "factor -0.5"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_schedules():
    network = model()
    by_name = LocoReg(network, 0.1, schedule={"stem": 0.0, "block.*": 2.0}).costs
    torch.testing.assert_close(by_name["stem"], 0 * tap_costs(3))
    torch.testing.assert_close(by_name["block.0"], 2 * tap_costs(3))
    torch.testing.assert_close(by_name["up"], tap_costs(2))
    by_depth = LocoReg(network, 0.1, schedule=lambda t: 1 - t).costs
    means = [float(costs.mean()) for costs in by_depth.values()]
    assert means == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert float(LocoReg(nn.Conv2d(1, 1, 3), 0.1, schedule=lambda t: 1 - t).costs[""].mean()) == 1
    total = LocoReg(network, 0.1, schedule=lambda t: 1 - t)()
    parts = [
        reference_penalty(network.get_submodule(n).weight, c, 0.1) for n, c in by_depth.items()
    ]
    assert total.item() == pytest.approx(sum(parts), rel=1e-5)


def test_double_decay_is_refused():
    network = model()
    reg = LocoReg(network, 0.1, exclude="up")
    optimizer = torch.optim.AdamW(network.parameters())
    with pytest.raises(InputError, match=r"'stem' would decay twice: group 0.*weight_decay=0.01"):
        reg.check_optimizer(optimizer)
    reg.check_optimizer(torch.optim.AdamW(LocoReg.param_groups(network, 0.1, exclude="up")))
    reg.check_optimizer(torch.optim.SGD(network.parameters(), lr=0.1))


def test_tied_weights_count_once():
    network = model()
    network["again"] = nn.Conv2d(3, 4, 3)
    network["again"].weight = network["stem"].weight
    network["same"] = network["block"][0]
    reg = LocoReg(network, 0.1)
    assert list(reg.costs) == ["stem", "block.0", "block.2", "up"]
    before = network["stem"].weight.detach().clone()
    reg.decay_(0.5)
    expected = before * (1 - 0.1 * tap_costs(3)).float()
    torch.testing.assert_close(network["again"].weight.detach(), expected)


def test_a_module_is_meant_by_any_of_its_names():
    network = model()
    network["same"] = network["block"][0]
    for selection in ({"include": "same"}, {"include": "block.0"}, {"include": ["sa*", "block.0"]}):
        assert list(LocoReg(network, 0.1, **selection).costs) == ["block.0"]
    for name in ("same", "block.0"):
        assert list(LocoReg(network, 0.1, exclude=name).costs) == ["stem", "block.2", "up"]
        costs = LocoReg(network, 0.1, schedule={name: 2.0}).costs["block.0"]
        torch.testing.assert_close(costs, 2 * tap_costs(3))


@pytest.mark.parametrize("old", ["weight_norm", "spectral_norm", "prune"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_the_older_parametrizations_are_computed_afresh(old):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, dtype=torch.float64)
    if old == "prune":
        prune.random_unstructured(conv, "weight", 0.5)
    else:
        getattr(nn.utils, old)(conv)
    reg = LocoReg(conv, 0.1)
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.5)
    for _ in range(3):  # also without a forward pass between: the graph is made each time
        optimizer.zero_grad()
        reg().backward()
        optimizer.step()
    found = reg().item()
    conv.eval()  # no power iteration
    conv(torch.zeros(1, 3, 3, 3, dtype=torch.float64))
    assert found == pytest.approx(reference_penalty(conv.weight, tap_costs(3), 0.1), rel=1e-12)


@pytest.mark.parametrize("law", ["quadratic", FilterPrior.correlated(3)], ids=["diagonal", "full"])
@pytest.mark.parametrize("channels", [3, 80])
def test_a_process_may_hold_no_filter_of_a_layer(law, channels):
    conv = nn.Conv2d(channels, 4, 3)
    conv.weight = nn.Parameter(conv.weight.detach()[:0])
    reg = LocoReg(conv, 0.1, law)
    reg().backward()
    assert conv.weight.grad.shape == conv.weight.shape
    reg.add_gradient_()
    reg.decay_(0.1)
    assert reg().item() == 0.0


def test_frozen_weights_are_left_out_while_frozen():
    network = model()
    reg = LocoReg(network, 0.1)
    full = reg().item()
    network["stem"].weight.requires_grad_(False)
    frozen = network["stem"].weight.clone()
    assert reg().item() < full
    reg().backward()
    reg.add_gradient_()
    reg.decay_(0.1)
    assert network["stem"].weight.grad is None
    assert torch.equal(network["stem"].weight, frozen)
    network["stem"].weight.requires_grad_(True)
    reg.decay_(0.1)
    assert not torch.equal(network["stem"].weight, frozen)
    network.requires_grad_(False)
    assert reg().item() == 0.0
    reg.add_gradient_()
    reg.decay_(0.1)


@pytest.mark.parametrize(
    "parametrization",
    [
        parametrizations.weight_norm,
        lambda conv: parametrize.register_parametrization(conv, "weight", nn.Tanh()),
        lambda conv: prune.random_unstructured(conv, "weight", 0.5),
    ],
    ids=["weight_norm", "tanh", "prune"],
)
def test_parametrized_weights(parametrization):
    conv = nn.Conv2d(3, 4, 3)
    parametrization(conv)
    reg = LocoReg(conv, 0.1)
    expected = reference_penalty(conv.weight, tap_costs(3), 0.1)
    assert reg().item() == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        assert reg().item() == pytest.approx(expected, rel=1e-5)
    reg().backward()
    inner = [p for name, p in conv.named_parameters() if name != "bias"]
    assert all(float(p.grad.abs().sum()) > 0 for p in inner)
    for change in (reg.add_gradient_, lambda: reg.decay_(0.1)):
        with pytest.raises(InputError, match=r"'' is parametrized.*add the penalty"):
            change()
    covered, rest = LocoReg.param_groups(conv, 0.5)
    assert sorted(map(id, covered["params"])) == sorted(map(id, inner))
    assert [id(p) for p in rest["params"]] == [id(conv.bias)]
    with pytest.raises(InputError, match="would decay twice"):
        reg.check_optimizer(torch.optim.SGD(conv.parameters(), lr=0.1, weight_decay=0.1))


def test_weights_of_two_dtypes():
    network = model()
    network["stem"].double()
    parts = [
        reference_penalty(m.weight, tap_costs(m.kernel_size), 0.1)
        for m in (network["stem"], network["block"][0], network["block"][2], network["up"])
    ]
    assert LocoReg(network, 0.1)().item() == pytest.approx(sum(parts), rel=1e-5)


def test_layouts_may_change_after_construction():
    network = model()
    reg = LocoReg(network, 0.1)
    reg.decay_(0.1)
    network.double().to(memory_format=torch.channels_last)
    before = network["stem"].weight.detach().clone()
    reg.decay_(0.1)
    expected = before * (1 - 0.02 * tap_costs(3))
    torch.testing.assert_close(network["stem"].weight.detach(), expected, rtol=1e-14, atol=0)


def test_compiled_models_are_looked_through():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3)))
    compiled = torch.compile(plain, backend="eager")
    reg = LocoReg(compiled, 0.1, include=["0", "1.0"])
    assert list(reg.costs) == ["0", "1.0"]
    (compiled(torch.randn(1, 3, 8, 8)).sum() + reg()).backward()
    assert plain[0].weight.grad is not None
    inside = nn.Sequential(torch.compile(nn.Conv2d(3, 4, 3), backend="eager"))
    assert list(LocoReg(inside, 0.1).costs) == ["0"]


@pytest.fixture
def one_process():
    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_data_parallel_models_are_looked_through():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3))
    wrapped = nn.parallel.DistributedDataParallel(plain)
    reg = LocoReg(wrapped, 0.1, include="0")
    assert list(reg.costs) == ["0"]
    (0 * wrapped(torch.randn(1, 3, 8, 8)).sum() + reg()).backward()
    in_loss = plain[0].weight.grad.clone()
    wrapped.zero_grad()
    (0 * wrapped(torch.randn(1, 3, 8, 8)).sum()).backward()
    reg.add_gradient_()
    torch.testing.assert_close(plain[0].weight.grad, in_loss)
    assert len(LocoReg.param_groups(wrapped, 0.1, include="0")[0]["params"]) == 1


@pytest.mark.usefixtures("one_process")
def test_fully_sharded_models_train_as_plain_ones():
    # One process holds all filters, but they are DTensors, which mix with no plain tensor.
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    sharded = fully_shard(copy.deepcopy(plain), mesh=init_device_mesh("cpu", (1,)))
    x = torch.randn(2, 3, 8, 8)
    results = []
    for network in (plain, sharded):
        reg = LocoReg(network, 0.1)
        optimizer = torch.optim.SGD(LocoReg.param_groups(network, 0.1), lr=0.1)
        (network(x).square().mean() + reg()).backward()
        reg.add_gradient_()
        reg.decay_(optimizer)
        optimizer.step()
        weight = network[0].weight
        results.append(weight.full_tensor() if network is sharded else weight)
    torch.testing.assert_close(results[1], results[0])


def test_repr_says_what_is_covered_and_with_what():
    network = model()
    network["stem"].weight.requires_grad_(False)
    parametrizations.weight_norm(network["up"])
    reg = LocoReg(network, 2.5e-4, floor=0.2, control="reversed", exclude="block.0")
    assert repr(reg) == (
        "LocoReg(strength=0.00025, law='quadratic', floor=0.2, control='reversed') covers 3 "
        "convolutions:\n"
        "  stem     Conv2d 3x3, c = 0.2 to 2.6; frozen\n"
        "  block.2  Conv2d 1x1, c = 1 (plain L2)\n"
        "  up       ConvTranspose2d 2x2, c = 1 (plain L2); parametrized: penalty only\n"
        "  not covered: block.0, head"
    )

    class Own(nn.Conv2d):
        pass

    assert "  Conv2d 3x3, c = 0 to 1.5" in repr(LocoReg(Own(1, 1, 3), 0.1))
    full = repr(LocoReg(nn.Conv2d(1, 1, 3), 0.1, FilterPrior.correlated(3)))
    assert re.search(r"3x3, filters decay 0\.\d+ to [2-9]\.\d+ times as much as plain L2", full)
    deep = nn.Sequential(*[nn.Conv2d(1, 1, 3) for _ in range(60)])
    assert "  and 20 more" in repr(LocoReg(deep, 0.1))
