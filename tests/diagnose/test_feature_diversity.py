"""Feature diversity against its definitions, its invariances, and what it leaves behind."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from convprior.diagnose import feature_diversity
from convprior.diagnose.diversity.reference import (
    reference_auroc,
    reference_effective_rank,
    reference_spearman,
    reference_variance,
)
from convprior.errors import InputError
from convprior.losses import BiasLoss, FeatureTap, bias_weights
from convprior.models import create_model


class Net(nn.Module):
    """Convolution, ReLU, mean, linear; with batch norm and dropout, which modes change."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6, classes)
        self.unused = nn.ReLU()

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)))
        return self.fc(self.drop(self.pool(x).flatten(1)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def images(count=90, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, 5, 4, generator=generator)
    x *= torch.rand(count, 1, 1, 1, generator=generator) * 2
    return x, torch.randint(classes, (count,), generator=generator)


def split(x, y, size):
    return list(zip(x.split(size), y.split(size), strict=True))


def test_every_number_by_its_definition(net):
    x, y = images()
    found = feature_diversity(net, split(x, y, 20))
    layer = found.layers[0]
    double = copy.deepcopy(net).double().eval()
    features = double.relu(double.norm(double.conv(x.double()))).detach()
    logits = double(x.double()).detach()
    losses = cross_entropy(logits, y, reduction="none")
    right = logits.argmax(1) == y
    v = reference_variance(features.numpy())
    torch.testing.assert_close(layer.variance.double(), torch.from_numpy(v), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.cross_entropy.double(), losses, rtol=1e-5, atol=1e-6)
    assert found.correct.equal(right)
    assert found.accuracy == pytest.approx(float(right.double().mean()))
    assert (found.images, found.classes, layer.shape) == (90, 3, (6, 5, 4))
    assert layer.auroc.value == pytest.approx(reference_auroc(v, right.numpy()), abs=1e-12)
    assert layer.spearman.value == pytest.approx(
        reference_spearman(v, losses.numpy()),
        abs=2e-3,  # a rank or two may swap in float32
    )
    pooled = features.mean((2, 3)).numpy()
    assert layer.rank.effective == pytest.approx(reference_effective_rank(pooled), rel=1e-5)
    values = np.linalg.eigvalsh(np.cov(pooled.T, bias=True))
    expected = values.sum() ** 2 / (values**2).sum()
    assert layer.rank.participation == pytest.approx(expected, rel=1e-5)
    order = np.argsort(v)
    for group in layer.deciles:
        own = order[9 * (group.number - 1) : 9 * group.number]
        assert group.images == 9
        assert group.correct == int(right[own].sum())
        assert group.loss == pytest.approx(float(losses[own].mean()), rel=1e-5)
        assert (group.least, group.most) == pytest.approx((v[own[0]], v[own[-1]]), rel=1e-5)
    assert layer.lowest.accuracy == layer.deciles[0].accuracy
    chance = max(
        1 / 3,
        sum(
            ((logits.argmax(1) == k).double().mean() * (y == k).double().mean()).item()
            for k in range(3)
        ),
    )
    assert layer.lowest.chance == found.chance == pytest.approx(chance)
    share = (layer.lowest.accuracy - chance) / (found.accuracy - chance)
    assert layer.lowest.kept == (pytest.approx(share) if found.accuracy > chance else None)


def test_how_images_are_batched_changes_nothing(net):
    x, y = images()
    one = feature_diversity(net, [(x, y)]).layers[0]
    many = feature_diversity(net, split(x, y, 7)).layers[0]
    assert many.auroc.value == pytest.approx(one.auroc.value, abs=1e-3)
    assert many.rank.effective == pytest.approx(one.rank.effective, rel=1e-5)
    assert many.weights.mean == pytest.approx(one.weights.mean, rel=1e-5)
    again = feature_diversity(net, split(x, y, 7)).layers[0]
    assert again.row() == many.row()


def test_the_size_of_the_features_changes_nothing():
    """Features times a positive number, the head divided by it: the same network."""
    torch.manual_seed(1)
    plain = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )
    scaled = copy.deepcopy(plain)
    with torch.no_grad():
        for parameter in scaled[0].parameters():
            parameter *= 8
        scaled[4].weight /= 8
    loader = split(*images(), 30)
    one, other = (feature_diversity(model, loader).layers[0].row() for model in (plain, scaled))
    for name in ("auroc", "spearman", "weights", "lowest"):
        assert one[name] == other[name]
    assert other["effective_rank"] == pytest.approx(one["effective_rank"], rel=1e-9)


def test_weights_are_those_of_bias_loss(net):
    x, y = images()
    found = feature_diversity(net, split(x, y, 25), batch_size=90)
    with FeatureTap(net) as tap, torch.no_grad():
        net.eval()(x)
        weights = bias_weights(tap.features)
    assert found.layers[0].weights.mean == pytest.approx(float(weights.mean()), rel=1e-5)
    assert sum(found.layers[0].weights.counts) == 90
    assert found.layers[0].weights.counts[0] >= 1
    assert found.layers[0].weights.counts[-1] >= 1
    right = found.correct
    assert found.layers[0].weights.on_correct == pytest.approx(float(weights[right].mean()), 1e-5)
    assert found.layers[0].weights.on_wrong == pytest.approx(float(weights[~right].mean()), 1e-5)
    loss = BiasLoss()(net(x), y, tap_features(net, x))
    assert torch.isfinite(loss)


def tap_features(net, x):
    with FeatureTap(net) as tap, torch.no_grad():
        net(x)
        return tap.features


def test_the_network_is_left_as_it_was(net):
    net.train()
    net.norm.eval()
    before = copy.deepcopy(net.state_dict())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    state = torch.random.get_rng_state()
    for layers in (None, "all", ["relu", "fc"]):
        feature_diversity(net, split(*images(), 40), layers=layers)
    with pytest.raises(RuntimeError):
        feature_diversity(net, [(torch.ones(4, 5, 9, 9), torch.zeros(4, dtype=torch.int64))])
    assert [net.training, net.norm.training, net.drop.training] == [True, False, True]
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    assert torch.random.get_rng_state().equal(state)
    for name, tensor in net.state_dict().items():
        assert tensor.equal(before[name])
    assert all(parameter.grad is None for parameter in net.parameters())


def test_layers_by_name_pattern_and_all(net):
    loader = split(*images(), 45)
    default = feature_diversity(net, loader)
    every = feature_diversity(net, loader, layers="all")
    assert [one.name for one in every] == ["conv", default.layers[0].name]
    assert every.layers[1].row() == default.layers[0].row()
    conv = feature_diversity(net, loader, layers="conv").layers[0]
    assert conv.row() == every["conv"].row()
    # The convolution's own output, though a ReLU writes over what comes after it.
    assert conv.variance.equal(feature_diversity(net, loader, layers="con[v]")["conv"].variance)
    named = feature_diversity(net, loader, layers=["pool", "fc", "?elu"])
    assert [(one.name, one.side) for one in named] == [
        ("relu", "output"),
        ("pool", "input"),
        ("fc", "input"),
    ]
    assert named["relu"].variance.equal(named["pool"].variance)
    assert named["pool"].variance.equal(default.layers[0].variance)
    assert named["fc"].shape == (6,)
    # A pattern passes over what does not run.
    every = [one.name for one in feature_diversity(net, loader, layers="*")]
    assert every == ["conv", "norm", "relu", "pool", "drop"]  # and over the logits
    with pytest.raises(InputError, match="no layer 'relus'"):
        named["relus"]


def test_wrappers_are_looked_through(net):
    loader = split(*images(), 45)
    expected = feature_diversity(net, loader).rows()
    compiled = torch.compile(net, backend="eager")
    assert feature_diversity(compiled, loader).rows() == expected
    inner = nn.Sequential(torch.compile(net, backend="eager"))
    row = feature_diversity(inner, loader).rows()[0]
    assert {**row, "name": expected[0]["name"]} == expected[0]
    net.compile(backend="eager")
    assert feature_diversity(net, loader).rows() == expected


def test_other_precisions(net):
    loader = split(*images(), 45)
    single = feature_diversity(net, loader).layers[0]
    half = feature_diversity(net, loader, dtype=torch.bfloat16).layers[0]
    torch.testing.assert_close(half.variance, single.variance, rtol=0.05, atol=1e-3)
    assert abs(half.auroc.value - single.auroc.value) < 0.05
    double = feature_diversity(net.double(), loader)
    assert double.layers[0].variance.dtype == torch.float64
    assert double.cross_entropy.dtype == torch.float64
    assert double.layers[0].auroc.value == pytest.approx(single.auroc.value, abs=1e-3)


def test_batches_are_taken_no_further_than_asked(net):
    taken = []

    def loader():
        for batch in split(*images(), 10):
            taken.append(batch)
            yield (*batch, torch.arange(10))  # an index, as the lab's own batches have

    found = feature_diversity(net, loader(), max_batches=3)
    assert found.images == 30
    assert len(taken) == 3


@pytest.mark.parametrize("name", ["plain_cnn", "mobilenet_v2", "densenet_bc40_12", "vgg11_bn"])
def test_networks_of_the_registry(name):
    model = create_model(name, small_input=True, seed=0)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 3, 32, 32, generator=generator), torch.arange(12) % 10
    layer = feature_diversity(model, [(x, y)]).layers[0]
    with FeatureTap(model) as tap:
        model(x)
        assert (layer.name, layer.side) == (tap.layer, tap.side)
        assert layer.shape == tuple(tap.features.shape[1:])
    assert layer.images == 12
    assert 1 <= layer.rank.participation <= layer.rank.effective <= 11


def test_tokens_and_modules_that_run_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(4, 4)
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(self.mix(self.mix(x)).mean(1))

    torch.manual_seed(0)
    model, x, y = Twice(), torch.randn(30, 5, 4), torch.arange(30) % 3
    layer = feature_diversity(model, [(x, y)], layers="mi?")["mix"]
    last = model.mix(model.mix(x)).detach()
    torch.testing.assert_close(layer.variance, last.flatten(1).var(1))
    assert layer.rank.effective == pytest.approx(
        reference_effective_rank(last.mean(1).double().numpy()), rel=1e-4
    )
    assert layer.images == 30


GOOD = (torch.rand(4, 2, 5, 4), torch.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize(
    ("loader", "options", "words"),
    [
        ([], {}, "no batch"),
        ([GOOD], {"max_batches": 0}, "max_batches is 0"),
        ([GOOD], {"confidence": 1.0}, "confidence is 1.0"),
        ([GOOD], {"batch_size": 0}, "batch_size is 0"),
        (None, {}, "the loader is a NoneType"),
        (None, {"batch_size": 7.5}, "batch_size is 7.5"),
        (None, {"max_batches": 1.5}, "max_batches is 1.5"),
        (None, {"max_batches": True}, "max_batches is True"),
        (None, {"seed": -1}, "seed is -1"),
        (None, {"alpha": "a"}, "alpha is 'a'"),
        (None, {"beta": 2}, "beta=2"),
        (None, {"dtype": torch.int8}, "dtype is torch.int8"),
        (None, {"layers": 3}, "layers is 3"),
        ([{"image": 1, "label": 2}], {}, "a dict of 'image', 'label'; give pairs, such as ((b["),
        ([(GOOD[0], ["a"] * 4)], {}, "labels are list"),
        ([(GOOD[0][:1], GOOD[1])], {}, "for 1 image;"),
        ([GOOD], {"alpha": -1.0}, "alpha"),
        ([GOOD[0]], {}, "a batch is a Tensor"),
        ([(GOOD[0].byte(), GOOD[1])], {}, "torch.uint8"),
        ([(GOOD[0], GOOD[1].float())], {}, "class numbers"),
        ([(GOOD[0], GOOD[1] + 1)], {}, "labels go from 1 to 3 where the network has 3 classes"),
        ([(GOOD[0], GOOD[1][:3])], {}, "of shape (3,) for 4 images"),
        ([GOOD], {"layers": "cov"}, "conv"),
        ([GOOD], {"layers": ["conv", "layer*"]}, "layer*"),
        ([GOOD], {"layers": "unus*"}, "gives features"),
        ([GOOD], {"layers": "unused"}, "does not run"),
    ],
)
def test_bad_input_is_named(net, loader, options, words):
    with pytest.raises(InputError) as raised:
        feature_diversity(net, loader, **options)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_networks_that_give_no_logits():
    x, y = torch.rand(4, 2, 5, 4), torch.zeros(4, dtype=torch.int64)
    one = nn.Sequential(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    with pytest.raises(InputError, match="one logit"):
        feature_diversity(one, [(x, y)])
    with pytest.raises(InputError, match="logits"):
        feature_diversity(nn.Conv2d(2, 4, 3), [(x, y)], layers=[])


def test_not_a_number_does_not_spread(net):
    x, y = images()
    x[7, 0, 0, 0] = math.nan
    x[11, 1, 2, 2] = math.inf
    keep = torch.tensor([i for i in range(90) if i not in (7, 11)])
    found = feature_diversity(net, split(x, y, 20))
    clean = feature_diversity(net, split(x[keep], y[keep], 20)).layers[0]
    layer = found.layers[0]
    assert (layer.left_out, layer.images, found.images) == (2, 88, 90)
    assert "2 images have" in layer.note
    assert layer.auroc.value == pytest.approx(clean.auroc.value, abs=1e-3)
    assert layer.rank.effective == pytest.approx(clean.rank.effective, rel=1e-5)
    assert layer.lowest.images == clean.lowest.images


def test_numpys_numbers_and_all_in_a_list(net):
    loader = split(*images(), 45)
    ours = feature_diversity(net, loader, layers="all", max_batches=2, batch_size=7, seed=3)
    theirs = feature_diversity(
        net,
        loader,
        layers=["all"],
        max_batches=np.int64(2),
        batch_size=np.int32(7),
        seed=np.uint8(3),
        alpha=np.float64(0.3),
    )
    assert theirs.rows() == ours.rows()
    assert theirs.settings == ours.settings
    json.dumps(theirs.as_dict(), allow_nan=False)


def test_a_nan_is_no_answer(net):
    x, y = images()
    x[:40] = math.nan
    found = feature_diversity(net, [(x, torch.zeros_like(y))])
    assert not found.correct[:40].any()
    assert (found.predictions[:40] == -1).all()
    assert found.layers[0].accuracy == pytest.approx(float(found.correct[40:].double().mean()))


def test_layers_of_a_pattern_come_as_they_run():
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.last = nn.Linear(4, 3), nn.Conv2d(4, 4, 1)
            self.first = nn.Conv2d(2, 4, 1)

        def forward(self, x):
            return self.fc(self.last(self.first(x)).mean((2, 3)))

    found = feature_diversity(Backwards(), [GOOD], layers="*")
    assert [one.name for one in found] == ["first", "last"]
