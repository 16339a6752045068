"""The controls of a fair comparison, and the running minimum."""

import copy
import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from convprior.errors import InputError
from convprior.losses import BiasLoss, bias_weights, feature_variance


def batch(seed=0, n=64, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 5, generator=generator)
    target = torch.randint(5, (n,), generator=generator)
    spread = torch.rand(n, 1, 1, 1, generator=generator) + 0.5
    return logits, target, scale * spread * torch.randn(n, 6, 3, 3, generator=generator)


def weights_of(loss, logits, target, features):
    """The weights that a loss gives, from logits whose cross-entropy is log 5."""
    reduction, loss.reduction = loss.reduction, "none"
    losses = loss(torch.zeros_like(logits), target, features)
    loss.reduction = reduction
    return losses / math.log(5)


def test_constant_has_the_same_mean_weight():
    logits, target, features = batch()
    bias, constant = BiasLoss(), BiasLoss(control="constant")
    bias(logits, target, features)
    loss = constant(logits, target, features)
    torch.testing.assert_close(loss, bias_weights(features).mean() * cross_entropy(logits, target))
    assert constant.mean_weight == bias.mean_weight == constant.largest_weight


def test_inverted_mirrors_the_range():
    data = batch()
    z = weights_of(BiasLoss(), *data)
    mirrored = weights_of(BiasLoss(control="inverted"), *data)
    s = ((z + 0.3).log() / 0.3).double()
    torch.testing.assert_close(mirrored, (0.3 * (1 - s)).exp().float() - 0.3)
    assert torch.equal(z.argsort(), mirrored.argsort(descending=True))


def test_2021_swaps_alpha_and_beta():
    data = batch()
    z = weights_of(BiasLoss(), *data)
    old = weights_of(BiasLoss(control="2021"), *data)
    torch.testing.assert_close(old, z + 0.3 - 1 + 0.3)  # alpha = beta
    assert (old.min().item(), old.max().item()) == pytest.approx((0.30, 0.64986), abs=1e-5)
    other = weights_of(BiasLoss(0.2, 0.6, control="2021"), *data)
    ends = (0.2, math.exp(0.6) - 1 + 0.2)
    assert (other.min().item(), other.max().item()) == pytest.approx(ends, abs=1e-5)


def test_shuffled_has_the_same_weights_on_other_examples():
    data = batch()
    z = weights_of(BiasLoss(), *data)
    loss = BiasLoss(control="shuffled")
    first, second = weights_of(loss, *data), weights_of(loss, *data)
    for shuffled in (first, second):
        assert torch.equal(shuffled.sort().values, z.sort().values)
        assert (shuffled != z).sum() > 55  # one or two of 64 stay, by chance
    assert (first != second).sum() > 55
    assert loss.mean_weight == z.mean()
    assert int(loss.calls) == 2


def test_shuffled_is_a_function_of_seed_and_call():
    data = batch()
    loss, same = BiasLoss(control="shuffled"), BiasLoss(control="shuffled")
    global_state = torch.get_rng_state()
    assert torch.equal(weights_of(loss, *data), weights_of(same, *data))
    resumed = BiasLoss(control="shuffled")
    resumed.load_state_dict(loss.state_dict())
    other = BiasLoss(control="shuffled", seed=1)
    other.load_state_dict(loss.state_dict())
    third = weights_of(loss, *data)
    assert torch.equal(third, weights_of(resumed, *data))
    assert not torch.equal(third, weights_of(other, *data))
    assert torch.equal(torch.get_rng_state(), global_state)
    loss.eval()
    assert torch.equal(weights_of(loss, *data), weights_of(loss, *data))
    assert int(loss.calls) == 2


def test_shuffled_is_uniform_over_places():
    data = batch(n=6)
    loss = BiasLoss(control="shuffled")
    where = torch.zeros(6, 6)
    z = weights_of(BiasLoss(), *data)
    for _ in range(600):
        where += z == weights_of(loss, *data)[:, None]
    # Each of 36 counts is binomial(600, 1/6) = 100 with standard deviation 9.1: 4.5 of them.
    assert (where - 100).abs().max() < 41


def test_shuffled_leaves_the_ignored_out():
    logits, target, features = batch()
    target[::3] = -100
    counted = target != -100
    z = weights_of(BiasLoss(), logits, target, features)
    for _ in range(3):
        loss = BiasLoss(control="shuffled")
        shuffled = weights_of(loss, logits, target, features)
        assert (shuffled[~counted] == 0).all()
        assert torch.equal(shuffled[counted].sort().values, z[counted].sort().values)


def test_running_subtracts_the_smallest_ever():
    data = batch()
    plain, running = BiasLoss(), BiasLoss(normalize="running")
    assert torch.equal(plain(*data), running(*data))  # the minimum so far is the batch's
    assert running.smallest == feature_variance(data[2]).min()

    wide = batch(1, scale=10.0)
    v = feature_variance(wide[2])
    s = (v - running.smallest) / (v.max() - v.min())
    torch.testing.assert_close(weights_of(running, *wide), (0.3 * s).exp() - 0.3)
    assert running.largest_weight > plain.largest_weight
    torch.testing.assert_close(running.largest_weight, (0.3 * s.max()).exp() - 0.3)


def test_running_weights_explode_as_the_authors_do():
    """Variance 0.01 in one batch and about 1 in the next: weights of 80 to 108 there."""
    loss = BiasLoss(normalize="running")
    logits, target = torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64)

    def features_of(v):
        return torch.stack([torch.zeros(len(v)), (2 * torch.tensor(v)).sqrt()], 1)

    loss(logits, target, features_of([0.01, 0.02, 0.03]))
    loss(logits, target, features_of([0.97, 1.0, 1.037]))
    s = (1.037 - 0.01) / (1.037 - 0.97)
    assert s == pytest.approx(15.3, abs=0.1)
    assert loss.largest_weight.item() == pytest.approx(math.exp(0.3 * s) - 0.3, rel=1e-3)
    tamed = BiasLoss(normalize="running", max_weight=2.0)
    tamed.load_state_dict(loss.state_dict())
    tamed(logits, target, features_of([0.97, 1.0, 1.037]))
    assert tamed.largest_weight == tamed.mean_weight == 2.0


def test_inverted_running_stays_positive():
    loss = BiasLoss(normalize="running", control="inverted")
    loss(*batch(0, scale=0.1))
    data = batch(1)
    z = weights_of(loss, *data)
    v = feature_variance(data[2])
    assert z.min() > 0.7
    assert torch.equal(z.argsort(), v.argsort(descending=True))


def test_eval_reads_the_minimum_and_keeps_it():
    loss = BiasLoss(normalize="running")
    loss(*batch(0, scale=0.5))
    kept = loss.smallest.clone()
    loss.eval()
    trained = weights_of(copy.deepcopy(loss).train(), *batch(1))
    assert torch.equal(weights_of(loss, *batch(1)), trained)
    assert weights_of(loss, *batch(2, scale=0.1)).min() == 0.7  # its own minimum is below
    assert loss.smallest == kept


def test_state_and_reset():
    assert not BiasLoss().state_dict()
    loss = BiasLoss(normalize="running", control="shuffled", weight=torch.ones(5))
    loss(*batch())
    state = loss.state_dict()
    assert set(state) == {"smallest", "calls", "weight"}
    assert state["smallest"].dtype == torch.float32
    fresh = BiasLoss(normalize="running", control="shuffled", weight=torch.ones(5))
    assert fresh.smallest == math.inf
    fresh.load_state_dict(state)
    for module in (fresh, copy.deepcopy(loss)):
        assert torch.equal(module(*batch(1)), copy.deepcopy(loss)(*batch(1)))
    loss.reset()
    assert (loss.smallest, loss.calls) == (math.inf, 0)


def test_a_batch_without_range_still_moves_the_minimum():
    logits, target, features = batch(n=1)
    loss = BiasLoss(normalize="running")
    assert torch.equal(loss(logits, target, features), cross_entropy(logits, target))
    assert loss.smallest == feature_variance(features)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"normalize": "global"}, "normalize is 'global'; choose 'batch' or 'running'"),
        ({"reduction": "average"}, "reduction is 'average'"),
        ({"label_smoothing": 1.5}, "label_smoothing is 1.5"),
        ({"control": "random"}, "control is 'random'; choose None, 'constant'"),
        ({"max_weight": 0.5}, "max_weight is 0.5; it must be finite and at least 1"),
        ({"max_weight": math.nan}, "max_weight is nan"),
        ({"alpha": -1.0}, "alpha must be from 0 to 20"),
        ({"beta": 1.0}, "beta < 1"),
        ({"alpha": 0.0, "control": "2021"}, "alpha must be > 0"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(InputError, match=words):
        BiasLoss(**options)


def test_repr_shows_what_is_set():
    shown = repr(BiasLoss(normalize="running", control="shuffled", max_weight=2.0))
    assert shown == (
        "BiasLoss(alpha=0.3, beta=0.3, normalize='running', reduction='mean', max_weight=2.0, "
        "control='shuffled')"
    )
