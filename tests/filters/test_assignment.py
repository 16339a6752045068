"""Which layer gets which prior: names, patterns, kernel sizes, and what no prior fits."""

import pytest
import torch
from torch import nn

from convprior.errors import InputError
from convprior.filters import FilterPrior, LocoReg, measured_priors
from convprior.filters.prior.assignment import assign_priors
from convprior.filters.selection import convolutions_of

ONE, TWO, THREE = (FilterPrior.correlated(3, lengthscale=scale) for scale in (0.5, 1.0, 1.5))
FIVE = FilterPrior.locality(5)


def model():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    return nn.ModuleDict(
        {
            "stem": nn.Conv2d(3, 8, 3),
            "block": block,
            "last": nn.ModuleList([nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 5)]),
            "up": nn.ConvTranspose2d(4, 4, 2),
            "head": nn.Linear(4, 2),
        }
    )


@pytest.mark.parametrize(
    ("priors", "expected"),
    [
        (ONE, {"stem": ONE, "block.0": ONE, "last.0": ONE}),
        ({"3x3": ONE}, {"stem": ONE, "block.0": ONE, "last.0": ONE}),
        (
            {"3x3": ONE, "5x5": FIVE},
            {"stem": ONE, "block.0": ONE, "last.0": ONE, "last.1": FIVE},
        ),
        ({"stem": ONE}, {"stem": ONE}),
        ({"block": ONE}, {"block.0": ONE}),
        ({"*.0": ONE, "last": TWO}, {"block.0": ONE, "last.0": TWO}),
        ({"last": TWO, "*.0": ONE}, {"block.0": ONE, "last.0": ONE}),
        ({"last.0": THREE, "last": FIVE}, {"last.0": THREE, "last.1": FIVE}),
        (
            {"stem": THREE, "last*": TWO, "3x3": ONE},
            {"stem": THREE, "block.0": ONE, "last.0": TWO},
        ),
    ],
)
def test_a_name_before_a_pattern_before_a_size(priors, expected):
    network = model()
    assigned = assign_priors(convolutions_of(network), priors)
    assert assigned == expected
    reg = LocoReg(network, 0.1, priors)
    assert list(reg.costs) == list(expected)
    for name, prior in expected.items():
        precision = prior.precision * (prior.precision.shape[0] / prior.precision.trace())
        torch.testing.assert_close(reg.precisions[name], precision, rtol=1e-9, atol=1e-12)
    covered, rest = LocoReg.param_groups(network, 0.5, law=priors)
    assert [id(p) for p in covered["params"]] == [
        id(network.get_submodule(name).weight) for name in expected
    ]
    everything = {id(p) for group in (covered, rest) for p in group["params"]}
    assert everything == {id(p) for p in network.parameters()}
    left_out = [n for n in ("stem", "block.0", "block.2", "last.0", "last.1") if n not in expected]
    assert repr(reg).endswith(f"not covered: {', '.join([*left_out, 'up', 'head'])}")
    assert reg().item() == pytest.approx(
        sum(0.1 * p.penalty(network.get_submodule(n).weight).item() for n, p in expected.items()),
        rel=1e-5,
    )


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        ({}, r"priors are \{\}; give a FilterPrior, or a mapping"),
        (3.0, r"law is 3\.0; choose one of .*, or give a FilterPrior or a mapping"),
        ({3: ONE}, r"a key of the priors is 3; give a layer's name, a pattern or a kernel size"),
        ({"stem": 1.0}, r"the entry 'stem' is 1\.0; give a FilterPrior"),
        ({"stem": ONE, "stam": ONE}, "prior for 'stam' matches no convolution.*stem, block"),
        ({"head": ONE}, "prior for 'head' matches no convolution"),
        ({"7x7": FilterPrior.independent(7)}, "prior for '7x7' matches no convolution"),
        ({"stem": FIVE}, r"'stem' has kernel size \(5, 5\) and 'stem' has \(3, 3\)"),
        ({"3x3": FIVE}, r"'3x3' has kernel size \(5, 5\) and 'stem' has \(3, 3\)"),
        ({"block": FIVE}, r"no convolution of kernel size \(5, 5\) is among block\.0, block\.2"),
        (
            FilterPrior.independent(7),
            r"no convolution of kernel size \(7, 7\) is among stem[^*]*; give a prior of",
        ),
    ],
)
def test_errors_name_the_entry(priors, message):
    for call in (LocoReg, LocoReg.param_groups):
        with pytest.raises(InputError, match=message):
            call(model(), 0.1, law=priors)


def test_a_singular_prior_of_a_mapping_is_named_by_its_layer():
    priors = {"3x3": ONE, "last.0": FilterPrior.mean_pool(3)}
    with pytest.raises(InputError, match=r"layer 'last\.0': .*is singular"):
        LocoReg(model(), 0.1, priors)


def test_include_and_exclude_narrow_a_mapping():
    network = model()
    priors = {"stem": ONE, "block.0": TWO, "last.1": FIVE}
    assert list(LocoReg(network, 0.1, priors, exclude="stem").costs) == ["block.0", "last.1"]
    assert list(LocoReg(network, 0.1, priors, include=["stem", "up"]).costs) == ["stem"]
    with pytest.raises(InputError, match="no convolution that a prior fits is left"):
        LocoReg(network, 0.1, priors, include="up")
    twice = LocoReg(network, 0.1, priors, schedule={"last.*": 2.0})
    torch.testing.assert_close(twice.costs["last.1"].mean().item(), 2.0)


def test_digits_are_a_layer_before_they_are_a_size():
    line = FilterPrior.correlated((3,))
    network = nn.Sequential(*[nn.Conv1d(2, 2, 3) for _ in range(4)])
    assert list(LocoReg(network, 0.1, {"3": line}).costs) == ["3"]
    assert list(LocoReg(network[:2], 0.1, {"3": line}).costs) == ["0", "1"]


@pytest.mark.parametrize("key", ["stem", "again", "ag*"])
def test_every_name_of_a_module_takes_a_prior(key):
    network = model()
    network["again"] = network["stem"]
    assert assign_priors(convolutions_of(network), {key: ONE}) == {"stem": ONE, "again": ONE}
    assert list(LocoReg(network, 0.1, {key: ONE}).costs) == ["stem"]
    with pytest.raises(InputError, match="'stem' and 'again' share one weight"):
        LocoReg(network, 0.1, {"again": ONE, "stem": TWO})


def test_tied_weights_have_one_prior():
    network = model()
    network["again"] = nn.Conv2d(3, 8, 3)
    network["again"].weight = network["stem"].weight
    assert list(LocoReg(network, 0.1, {"again": ONE}).costs) == ["again"]
    covered, _ = LocoReg.param_groups(network, 0.1, law={"again": ONE})
    assert [id(p) for p in covered["params"]] == [id(network["stem"].weight)]
    assert list(LocoReg(network, 0.1, {"again": ONE, "stem": ONE}).costs) == ["stem"]
    with pytest.raises(InputError, match="'stem' and 'again' share one weight"):
        LocoReg(network, 0.1, {"again": ONE, "stem": TWO})


@pytest.mark.parametrize("per", ["layer", "kernel_size"])
def test_what_measured_priors_returns_is_a_law(per):
    network = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3), nn.Conv2d(4, 9, 5))
    priors = measured_priors(network, per=per, shrinkage=0.1)
    reg = LocoReg(network, 0.1, priors)
    assert list(reg.costs) == ["0", "1", "2"]
    assert f"law={len(priors)} priors" in repr(reg)
    for index, name in enumerate(reg.costs):
        prior = priors[name if per == "layer" else ("3x3", "3x3", "5x5")[index]]
        precision = prior.precision * (len(prior.precision) / prior.precision.trace())
        torch.testing.assert_close(reg.precisions[name], precision, rtol=1e-9, atol=1e-9)


def test_groups_made_for_another_law_are_refused():
    network = model()
    reg = LocoReg(network, 0.1, ONE)
    wrong = torch.optim.SGD(LocoReg.param_groups(network, 5e-4), lr=0.1)
    with pytest.raises(InputError, match=r"'block\.2' would never decay.*group 0"):
        reg.check_optimizer(wrong)
    reg.check_optimizer(torch.optim.SGD(LocoReg.param_groups(network, 5e-4, law=ONE), lr=0.1))
    reg.check_optimizer(torch.optim.SGD(LocoReg.param_groups(network, 0.0), lr=0.1))
    covered, rest = LocoReg.param_groups(network, 5e-4, law=ONE)
    free = {"params": [network["up"].weight], "weight_decay": 0.0}
    rest["params"] = [p for p in rest["params"] if p is not network["up"].weight]
    reg.check_optimizer(torch.optim.SGD([covered, rest, free], lr=0.1))  # said on purpose
