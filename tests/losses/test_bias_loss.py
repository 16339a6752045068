"""The loss against float64 loops and against torch's cross-entropy where they meet."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, one_hot, softmax

from convprior.losses import BiasLoss, bias_weights, feature_variance
from convprior.losses.reference import reference_loss, reference_weights

N, CLASSES = 12, 5


def batch(seed=0, n=N, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, CLASSES, generator=generator, dtype=dtype)
    target = torch.randint(CLASSES, (n,), generator=generator)
    scale = torch.rand(n, 1, 1, 1, generator=generator, dtype=dtype)
    return logits, target, scale * torch.randn(n, 6, 3, 3, generator=generator, dtype=dtype)


def mixed(target):
    """Targets as mixup makes them."""
    hard = one_hot(target, CLASSES).double()
    return 0.7 * hard + 0.3 * hard.flip(0)


WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.25, 3.0], dtype=torch.float64)
OPTIONS = {
    "plain": {},
    "other weights": {"alpha": 0.5, "beta": 0.2},
    "smoothing": {"label_smoothing": 0.1},
    "classes": {"weight": WEIGHT},
    "ignored": {"ignore_index": 2},
    "all": {"label_smoothing": 0.2, "weight": WEIGHT, "ignore_index": 1},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("mean_one", [False, True])
@pytest.mark.parametrize("control", [None, "constant", "inverted", "2021"])
@pytest.mark.parametrize("normalize", ["batch", "running"])
def test_loss_is_that_of_the_float64_loop(options, mean_one, control, normalize):
    loss = BiasLoss(**options, mean_one=mean_one, control=control, normalize=normalize)
    smallest = float("inf")
    for seed in range(3):
        logits, target, features = batch(seed)
        v = feature_variance(features)
        counted = target != options.get("ignore_index", -100)
        if normalize == "running":
            smallest = min(smallest, float(v[counted].min()))
        z = reference_weights(
            v,
            options.get("alpha", 0.3),
            options.get("beta", 0.3),
            counted=counted.tolist(),
            smallest=smallest,
            control=control,
            mean_one=mean_one,
        )
        kept = ("weight", "ignore_index", "label_smoothing")
        rules = {name: value for name, value in options.items() if name in kept}
        # The running minimum is kept in float32.
        tolerance = 1e-12 if normalize == "batch" else 1e-6
        wanted = reference_loss(logits, target, z, **rules)
        assert loss(logits, target, features).item() == pytest.approx(wanted, abs=tolerance)
        shown = z[counted.numpy()]
        assert loss.mean_weight.item() == pytest.approx(shown.mean(), abs=tolerance)
        assert loss.largest_weight.item() == pytest.approx(shown.max(), abs=tolerance)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_targets_are_those_of_the_float64_loop(smoothing):
    logits, target, features = batch()
    z = reference_weights(feature_variance(features))
    loss = BiasLoss(label_smoothing=smoothing)(logits, mixed(target), features)
    wanted = reference_loss(logits, mixed(target), z, label_smoothing=smoothing)
    assert loss.item() == pytest.approx(wanted, abs=1e-12)


@given(st.integers(1, 20), st.floats(0, 1), st.booleans(), st.integers(0, 99))
def test_weights_times_cross_entropy(n, smoothing, soft, seed):
    logits, target, features = batch(seed, n)
    if soft:
        target = mixed(target)
    losses = cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
    wanted = bias_weights(features) * losses
    for reduction, value in {"none": wanted, "sum": wanted.sum(), "mean": wanted.mean()}.items():
        loss = BiasLoss(reduction=reduction, label_smoothing=smoothing)
        torch.testing.assert_close(loss(logits, target, features), value)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_alpha_and_beta_it_is_cross_entropy(options, reduction, dtype):
    logits, target, features = batch(dtype=dtype)
    rules = {name: v for name, v in options.items() if name not in ("alpha", "beta")}
    loss = BiasLoss(0.0, 0.0, reduction=reduction, **rules)(logits, target, features)
    if "weight" in rules:
        rules["weight"] = rules["weight"].to(dtype)
    torch.testing.assert_close(loss, cross_entropy(logits, target, reduction=reduction, **rules))
    scaled = BiasLoss(0.0, -0.4, reduction=reduction, **rules)(logits, target, features)
    torch.testing.assert_close(scaled, 1.4 * loss)


@pytest.mark.parametrize("soft", [False, True])
def test_class_weights_of_soft_targets_are_torchs(soft):
    logits, target, features = batch()
    given = mixed(target) if soft else target
    loss = BiasLoss(0.0, 0.0, weight=WEIGHT)(logits, given, features)
    torch.testing.assert_close(loss, cross_entropy(logits, given, WEIGHT))


def test_one_hot_is_hard():
    logits, target, features = batch()
    hard = BiasLoss()(logits, target, features)
    soft = BiasLoss()(logits, one_hot(target, CLASSES).double(), features)
    torch.testing.assert_close(hard, soft)


def test_gradient_is_that_of_weighted_cross_entropy():
    logits, target, features = batch()
    logits.requires_grad_()
    features.requires_grad_()
    BiasLoss()(logits, target, features).backward()
    z = bias_weights(features)
    wanted = z[:, None] * (softmax(logits, 1) - one_hot(target, CLASSES)) / N
    torch.testing.assert_close(logits.grad, wanted.detach())
    assert features.grad is None


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_second_derivatives(reduction):
    logits, target, features = batch(n=3)
    loss = BiasLoss(reduction=reduction, weight=WEIGHT, label_smoothing=0.1)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, target, features), logits)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, target, features), logits)


def test_mean_one_is_the_weighted_mean():
    logits, target, features = batch()
    z = bias_weights(features)
    losses = cross_entropy(logits, target, reduction="none")
    loss = BiasLoss(mean_one=True)
    torch.testing.assert_close(loss(logits, target, features), (z * losses).sum() / z.sum())
    assert loss.mean_weight == 1
    torch.testing.assert_close(loss.largest_weight, z.max() / z.mean())


def test_ignored_examples_take_no_part():
    logits, target, features = batch()
    features[:2] *= torch.tensor([1e-3, 1e3], dtype=torch.float64)[:, None, None, None]
    target[:2] = -100
    for options in ({}, {"mean_one": True}, {"control": "constant"}, {"normalize": "running"}):
        loss, rest = BiasLoss(**options), BiasLoss(**options)
        torch.testing.assert_close(
            loss(logits, target, features), rest(logits[2:], target[2:], features[2:])
        )
        for name in ("mean_weight", "largest_weight", "smallest"):
            assert getattr(loss, name) == getattr(rest, name)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nothing_counts_as_in_torch(reduction):
    logits, target, features = batch()
    loss = BiasLoss(reduction=reduction)
    ignored = torch.full_like(target, -100)
    for rows in (N, 0):
        torch.testing.assert_close(
            loss(logits[:rows], ignored[:rows], features[:rows]),
            cross_entropy(logits[:rows], ignored[:rows], reduction=reduction),
            equal_nan=True,
        )
        assert loss.mean_weight == 1


def test_micro_batches_in_two_passes():
    logits, target, features = batch()
    whole = BiasLoss()(logits, target, features)
    z = bias_weights(torch.cat(features.split(4)))
    parts = [
        (weights * cross_entropy(x, y, reduction="none")).mean() / 3
        for x, y, weights in zip(logits.split(4), target.split(4), z.split(4), strict=True)
    ]
    torch.testing.assert_close(sum(parts), whole)
