"""What other implementations get wrong, and what a training loop may do to the loss."""

import copy
import math
import pickle

import pytest
import torch
from torch.nn.functional import cross_entropy

from convprior.errors import InputError
from convprior.losses import BiasLoss, bias_weights

CONTROLS = [None, "constant", "shuffled", "inverted", "2021"]


def batch(n=8, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 5, generator=generator)
    target = torch.randint(5, (n,), generator=generator)
    spread = torch.rand(n, 1, 1, 1, generator=generator) + 0.5
    features = spread * torch.randn(n, 6, 3, 3, generator=generator)
    return logits.to(dtype), target, features.to(dtype)


# Wrong forks.


def test_alpha_is_in_the_exponent():
    features = batch()[2]
    z = bias_weights(features, alpha=1.0, beta=0.0)
    assert z.max() == torch.tensor(1.0).exp()
    assert z.min() == 1
    assert not torch.allclose(z, bias_weights(features, alpha=0.3, beta=0.0))


def test_defaults_weigh():
    assert bias_weights(batch()[2]).std() > 0.01
    assert BiasLoss()(*batch()) != cross_entropy(*batch()[:2])


def test_variance_is_of_each_sample_not_over_the_batch():
    """A fork takes the variance over dimension 0: here 0 everywhere, while samples differ."""
    features = batch()[2]
    other = torch.cat([features[:4], features[:4].flip(2)])  # equal samples, positions differ
    z = bias_weights(other)
    torch.testing.assert_close(z[:4], z[4:])
    assert z[:4].std() > 0.01


def test_weights_come_from_the_features_not_from_the_logits():
    logits, target, features = batch()
    loss = BiasLoss(reduction="none")
    first = loss(logits, target, features) / cross_entropy(logits, target, reduction="none")
    other = logits.flip(0)
    second = loss(other, target, features) / cross_entropy(other, target, reduction="none")
    torch.testing.assert_close(first, second)


def test_the_mean_is_over_examples_not_over_weights():
    logits, target, features = batch()
    total = BiasLoss(reduction="sum")(logits, target, features)
    torch.testing.assert_close(BiasLoss()(logits, target, features), total / 8)


def test_a_small_last_batch_is_used():
    loss = BiasLoss(normalize="running")
    loss(*batch(8))
    logits, target, features = batch(3, seed=1)
    assert loss(logits, target, features) != cross_entropy(logits, target)


# Corner cases.


@pytest.mark.parametrize("control", [None, "constant", "shuffled", "inverted", "2021"])
@pytest.mark.parametrize("normalize", ["batch", "running"])
@pytest.mark.parametrize("mean_one", [False, True])
def test_no_range_is_plain_cross_entropy(control, normalize, mean_one):
    loss = BiasLoss(normalize=normalize, control=control, mean_one=mean_one)
    logits, target, features = batch()
    plain = cross_entropy(logits, target)
    for flat in (torch.zeros_like(features), features[:1].expand(8, -1, -1, -1)):
        torch.testing.assert_close(loss(logits, target, flat), plain, rtol=1e-6, atol=0)
        assert loss.largest_weight == 1
    one = loss(logits[:1], target[:1], features[:1])
    torch.testing.assert_close(one, cross_entropy(logits[:1], target[:1]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("control", CONTROLS)
def test_broken_features_leave_the_loss_finite(control):
    logits, target, features = batch()
    features[2, 0, 0, 0] = math.nan
    logits.requires_grad_()
    loss = BiasLoss(control=control)
    loss(logits, target, features).backward()
    assert logits.grad.isfinite().all()
    assert loss.mean_weight.isfinite()
    if control == "2021":
        assert loss.largest_weight == 1  # the broken sample's, above all others


def test_broken_logits_show():
    logits, target, features = batch()
    logits[2] = math.nan
    assert BiasLoss()(logits, target, features).isnan()


class Tap:
    layer = "blocks.9"

    def __init__(self, features):
        self.features = features


def test_features_may_come_from_a_tap():
    logits, target, features = batch()
    loss = BiasLoss()
    assert torch.equal(loss(logits, target, Tap(features)), loss(logits, target, features))
    with pytest.raises(InputError, match=r"'blocks.9' have shape \(8, 1, 1, 1\)"):
        loss(logits, target, Tap(features[:, :1, :1, :1]))


@pytest.mark.parametrize(
    ("logits", "target", "features", "words"),
    [
        ((4, 5), (4,), (3, 2, 2), r"features have shape \(3, 2, 2\) beside 4 logits"),
        ((4, 5), (4,), (), r"features have shape \(\) beside 4 logits"),
        ((4, 5), (5,), (4, 2), r"target is torch.int64 of shape \(5,\) beside logits"),
        ((4, 5), (4, 5), (4, 2), r"integer classes \(N,\) or probabilities"),
        ((4, 5, 2), (4,), (4, 2), r"logits have shape \(4, 5, 2\); they must be \(N, classes\)"),
        ((4, 5), (4,), (4, 1), "at least 2 values a sample"),
    ],
)
def test_shapes_that_do_not_fit(logits, target, features, words):
    integers = torch.zeros(target, dtype=torch.int64)
    with pytest.raises(InputError, match=words):
        BiasLoss()(torch.randn(logits), integers, torch.randn(features))


# Training loops.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("control", CONTROLS)
def test_autocast_computes_in_single_precision(dtype, control):
    data = batch(dtype=dtype)
    loss = BiasLoss(control=control)
    wanted = copy.deepcopy(loss)(data[0].float(), data[1], data[2].float())
    with torch.autocast("cpu", dtype=dtype):
        result = loss(*data)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, wanted, rtol=0, atol=1e-6)


def test_float64_stays():
    logits, target, features = batch(dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert BiasLoss()(logits, target, features).dtype == torch.float64
    assert BiasLoss()(logits, target, features.bfloat16()).dtype == torch.float64
    assert BiasLoss()(logits.float(), target, features).dtype == torch.float32


@pytest.mark.parametrize(
    ("control", "normalize"), list(zip(CONTROLS, [*2 * ["batch", "running"], "batch"], strict=True))
)
def test_compiled_without_a_graph_break(control, normalize):
    options = {"control": control, "normalize": normalize, "mean_one": True, "max_weight": 3.0}
    plain, compiled = BiasLoss(**options), BiasLoss(**options)
    torch.compiler.reset()
    # This backend follows the graph and its side effects; Inductor would take minutes.
    step = torch.compile(compiled, backend="eager", fullgraph=True)
    step(*batch()), plain(*batch())
    with torch.compiler.set_stance("fail_on_recompile"):
        for seed in range(1, 4):
            data = batch(seed=seed)
            assert torch.equal(step(*data), plain(*data))
            assert torch.equal(compiled.mean_weight, plain.mean_weight)
            assert torch.equal(compiled.largest_weight, plain.largest_weight)
    assert torch.equal(compiled.smallest, plain.smallest)
    assert torch.equal(compiled.calls, plain.calls)


def test_compiled_gradients():
    torch.compiler.reset()
    plain, compiled = BiasLoss(normalize="running"), BiasLoss(normalize="running")
    step = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    for seed in range(2):
        logits, target, features = batch(seed=seed)
        logits.requires_grad_()
        wanted = plain(logits, target, features)
        result = step(logits, target, features)
        torch.testing.assert_close(result, wanted)
        (slope,) = torch.autograd.grad(wanted, logits)
        torch.testing.assert_close(torch.autograd.grad(result, logits), (slope,))
    torch.testing.assert_close(compiled.smallest, plain.smallest)


def test_copies_and_pickles():
    loss = BiasLoss(normalize="running", control="shuffled")
    loss(*batch())
    data = batch(seed=1)
    copies = [copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))]
    wanted = loss(*data)
    for other in copies:
        assert torch.equal(other(*data), wanted)


def test_reported_weights_are_fresh_and_detached():
    loss = BiasLoss()
    assert loss.mean_weight == loss.largest_weight == 1
    logits, target, features = batch()
    loss(logits.requires_grad_(), target, features.requires_grad_())
    first = loss.mean_weight
    kept = first.clone()
    loss(*batch(seed=1))
    assert torch.equal(first, kept)
    assert first.shape == ()
    assert not first.requires_grad


def test_inference_mode():
    with torch.inference_mode():
        assert BiasLoss()(*batch()).isfinite()
    loss = BiasLoss(normalize="running", control="shuffled")
    with torch.inference_mode():
        loss(*batch())
    loss(*batch())
