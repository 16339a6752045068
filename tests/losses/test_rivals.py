"""The rivals against float64 loops, at their limits, and under every convention of torch."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, one_hot, softmax

from convprior.errors import InputError
from convprior.losses import (
    FocalLoss,
    GeneralizedCrossEntropy,
    Poly1Loss,
    SymmetricCrossEntropy,
    TaylorCrossEntropy,
    focal_loss,
    generalized_cross_entropy,
    poly1_loss,
    symmetric_cross_entropy,
    taylor_cross_entropy,
)
from convprior.losses.reference import reference_rival

CLASSES = 5

# Function, module, own argument, and the loss of the probability p of the right class.
RIVALS = {
    "focal": (focal_loss, FocalLoss, {"gamma": 1.5}, lambda p: -((1 - p) ** 1.5) * math.log(p)),
    "poly1": (poly1_loss, Poly1Loss, {"epsilon": 0.8}, lambda p: -math.log(p) + 0.8 * (1 - p)),
    "gce": (
        generalized_cross_entropy,
        GeneralizedCrossEntropy,
        {"q": 0.6},
        lambda p: (1 - p**0.6) / 0.6,
    ),
    "sce": (
        symmetric_cross_entropy,
        SymmetricCrossEntropy,
        {"alpha": 0.3, "beta": 0.7, "log_zero": -5.0},
        lambda p: -0.3 * math.log(p) + 0.7 * 5 * (1 - p),
    ),
    "taylor": (
        taylor_cross_entropy,
        TaylorCrossEntropy,
        {"order": 3},
        lambda p: (1 - p) + (1 - p) ** 2 / 2 + (1 - p) ** 3 / 3,
    ),
}
every_rival = pytest.mark.parametrize(
    ("function", "module", "own", "formula"), RIVALS.values(), ids=RIVALS
)


def batch(seed=0, n=8):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, CLASSES, dtype=torch.float64, generator=generator)
    target = torch.randint(CLASSES, (n,), generator=generator)
    return logits, target


def mixed(target):
    hard = one_hot(target, CLASSES).double()
    return 0.7 * hard + 0.3 * hard.flip(0)


@every_rival
@pytest.mark.parametrize("seed", range(5))
def test_hard_targets_are_those_of_the_float64_loop(function, module, own, formula, seed):
    logits, target = batch(seed)
    wanted = reference_rival(logits, target, formula)
    assert function(logits, target, **own).item() == pytest.approx(wanted, abs=1e-12)
    assert module(**own)(logits, target).item() == pytest.approx(wanted, abs=1e-12)


@every_rival
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_soft_targets_are_those_of_the_float64_loop(function, module, own, formula, smoothing):
    logits, target = batch()
    soft = mixed(target)
    loss = module(**own, label_smoothing=smoothing)(logits, soft)
    smoothed = (1 - smoothing) * soft + smoothing / CLASSES
    if function is symmetric_cross_entropy:
        log_p = torch.log_softmax(logits, 1)
        reverse = (log_p.exp() * smoothed.log().clamp(min=-5)).sum(1)
        wanted = (-0.3 * (smoothed * log_p).sum(1) - 0.7 * reverse).mean().item()
    else:
        wanted = reference_rival(logits, smoothed, formula)
    assert loss.item() == pytest.approx(wanted, abs=1e-12)


LIMITS = {
    "gamma 0": (focal_loss, 0.0, 1e-12),
    "epsilon 0": (poly1_loss, 0.0, 1e-12),
    "q to 0": (generalized_cross_entropy, 1e-9, 1e-7),
    "order to infinity": (taylor_cross_entropy, 400, 1e-7),
}


@pytest.mark.parametrize(("function", "value", "tolerance"), LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("kind", ["hard", "soft", "smoothed", "ignored"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_limit_is_cross_entropy(function, value, tolerance, kind, reduction):
    logits, target = batch()
    logits = logits / 4  # keeps (1 - p)^400 small
    rules = {"reduction": reduction}
    if kind == "soft":
        target = mixed(target)
    if kind == "smoothed":
        rules["label_smoothing"] = 0.1
    if kind == "ignored":
        rules["ignore_index"] = int(target[0])
    torch.testing.assert_close(
        function(logits, target, value, **rules),
        cross_entropy(logits, target, **rules),
        rtol=tolerance,
        atol=tolerance,
    )


@every_rival
def test_masked_classes_have_no_part(function, module, own, formula):
    logits, target = batch()
    masked = torch.cat([logits, torch.full((8, 2), -math.inf)], 1).requires_grad_()
    loss = function(masked, target, **own)
    torch.testing.assert_close(loss, function(logits, target, **own))
    loss.backward()
    assert masked.grad.isfinite().all()


def test_symmetric_without_the_reverse_is_cross_entropy():
    logits, target = batch()
    for y in (target, mixed(target)):
        loss = symmetric_cross_entropy(logits, y, alpha=1.0, beta=0.0)
        torch.testing.assert_close(loss, cross_entropy(logits, y))


def test_both_robust_limits_are_the_mean_absolute_error():
    logits, target = batch()
    error = (softmax(logits, 1) - one_hot(target, CLASSES)).abs().sum(1).mean() / 2
    torch.testing.assert_close(generalized_cross_entropy(logits, target, q=1.0), error)
    torch.testing.assert_close(taylor_cross_entropy(logits, target, order=1), error)
    reverse = symmetric_cross_entropy(logits, target, alpha=0.0, beta=1.0)
    torch.testing.assert_close(reverse, 4 * error)


@every_rival
@given(st.integers(1, 9), st.integers(0, 99))
def test_reductions_agree(function, module, own, formula, n, seed):
    logits, target = batch(seed, n)
    losses = function(logits, target, **own, reduction="none")
    assert losses.shape == (n,)
    torch.testing.assert_close(function(logits, target, **own, reduction="sum"), losses.sum())
    torch.testing.assert_close(function(logits, target, **own), losses.mean())
    hard = function(logits, one_hot(target, CLASSES).double(), **own)
    torch.testing.assert_close(hard, losses.mean())


@every_rival
def test_derivatives(function, module, own, formula):
    logits, target = batch(n=3)
    logits.requires_grad_()
    for y in (target, mixed(target)):
        assert torch.autograd.gradcheck(lambda x, y=y: function(x, y, **own), logits)
        assert torch.autograd.gradgradcheck(lambda x, y=y: function(x, y, **own), logits)


@every_rival
def test_certain_predictions_have_finite_gradients(function, module, own, formula):
    sure = torch.tensor([[200.0, 0.0], [200.0, 0.0]], requires_grad=True)
    if function is focal_loss:
        own = {"gamma": 0.5}
    loss = function(sure, torch.tensor([0, 1]), **own)
    loss.backward()
    assert loss.isfinite()
    assert sure.grad.isfinite().all()


@every_rival
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_single_precision(function, module, own, formula, dtype):
    logits, target = batch()
    half = logits.to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        loss = module(**own)(half, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, module(**own)(half.float(), target), rtol=0, atol=1e-6)


@every_rival
def test_modules_copy_pickle_and_show_themselves(function, module, own, formula):
    loss = module(**own)
    logits, target = batch()
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(logits, target), loss(logits, target))
    assert not loss.state_dict()
    name, value = next(iter(own.items()))
    assert f"{module.__name__}({name}={value}" in repr(loss)


@every_rival
def test_compiled_without_a_graph_break(function, module, own, formula):
    torch.compiler.reset()
    logits, target = batch()
    step = torch.compile(module(**own), backend="eager", fullgraph=True)
    torch.testing.assert_close(step(logits, target), function(logits, target, **own))


@every_rival
def test_nothing_counts_as_in_torch(function, module, own, formula):
    logits, target = batch()
    ignored = torch.full_like(target, -100)
    assert function(logits, ignored, **own).isnan()
    assert function(logits, ignored, **own, reduction="sum") == 0
    assert function(logits[:0], target[:0], **own, reduction="sum") == 0


@pytest.mark.parametrize(
    ("module", "own", "words"),
    [
        (FocalLoss, {"gamma": -1.0}, "gamma is -1.0; it must be finite and at least 0"),
        (Poly1Loss, {"epsilon": -2.0}, "epsilon is -2.0; it must be finite and at least -1"),
        (GeneralizedCrossEntropy, {"q": 0.0}, "q is 0.0; it must be above 0 and at most 1"),
        (SymmetricCrossEntropy, {"alpha": -0.1}, "alpha is -0.1"),
        (SymmetricCrossEntropy, {"beta": math.inf}, "beta is inf"),
        (SymmetricCrossEntropy, {"log_zero": 0.0}, "log_zero is 0.0; it stands for log 0"),
        (TaylorCrossEntropy, {"order": 0}, "order is 0; it must be an integer of at least 1"),
        (TaylorCrossEntropy, {"order": 1.5}, "order is 1.5"),
        (FocalLoss, {"reduction": "average"}, "reduction is 'average'"),
        (FocalLoss, {"label_smoothing": -0.1}, "label_smoothing is -0.1"),
    ],
)
def test_wrong_options_fail_when_built(module, own, words):
    with pytest.raises(InputError, match=words):
        module(**own)


def test_wrong_shapes():
    with pytest.raises(InputError, match=r"target is torch.int64 of shape \(3,\)"):
        focal_loss(torch.zeros(4, 5), torch.zeros(3, dtype=torch.int64))
