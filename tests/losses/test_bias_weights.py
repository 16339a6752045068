"""Variances and weights against float64 loops, and the laws of the paper's formula."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convprior.errors import InputError
from convprior.losses import bias_weights, feature_variance
from convprior.losses.reference import reference_variance, reference_weights

SHAPES = st.one_of(
    st.tuples(st.integers(2, 40)),
    st.tuples(st.integers(1, 9), st.integers(2, 5)),
    st.tuples(st.integers(1, 20), st.integers(1, 8), st.integers(2, 8)),
    st.tuples(st.integers(2, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])


def drawn(n, shape, seed=0, dtype=torch.float32):
    """Features after a ReLU whose scale differs from sample to sample."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.rand(n, *[1] * len(shape), generator=generator) + 0.5
    x = torch.randn(n, *shape, generator=generator) + 0.3
    return (scales * x).relu().add(0.1).to(dtype)


@given(st.integers(1, 9), SHAPES, DTYPES, st.integers(0, 99))
def test_variance_is_that_of_the_float64_loop(n, shape, dtype, seed):
    features = drawn(n, shape, seed, dtype)
    variance = feature_variance(features)
    assert variance.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert variance.shape == (n,)
    # Two passes: some units of rounding of the sum of squares about the mean, and no more.
    wanted = torch.from_numpy(reference_variance(features.double()))
    scale = wanted + 1e-4 * features.double().flatten(1).mean(1).square()
    assert torch.all((variance - wanted).abs() <= 8 * torch.finfo(variance.dtype).eps * scale)


@given(st.integers(2, 9), SHAPES, DTYPES, st.floats(0, 2), st.floats(-1, 0.99))
def test_weights_are_those_of_the_float64_loop(n, shape, dtype, alpha, beta):
    features = drawn(n, shape, 3, dtype)
    variance = reference_variance(features.double())
    distinct = np.ptp(variance) > 1e-3 * variance.max()
    wanted = reference_weights(variance if distinct else np.ones(n), alpha, beta)
    if distinct:
        torch.testing.assert_close(
            bias_weights(features, alpha, beta).double(),
            torch.from_numpy(wanted),
            rtol=0,
            atol=2e-3,
        )


@pytest.mark.parametrize(
    ("s", "z"), [(0.0, 0.7), (0.25, 0.7779), (0.5, 0.8618), (0.8745, 1.0), (1.0, 1.0499)]
)
def test_weights_of_the_paper(s, z):
    # Two values 0 and a have the variance a^2 / 2.
    a = torch.tensor([1.0, 1.0 + s, 2.0], dtype=torch.float64).sqrt()
    weights = bias_weights(torch.stack([torch.zeros(3, dtype=torch.float64), a], 1))
    assert weights[1].item() == pytest.approx(z, abs=6e-5)
    assert weights[0].item() == pytest.approx(0.7, abs=1e-12)
    assert weights[2].item() == pytest.approx(math.exp(0.3) - 0.3, abs=1e-12)


def test_weights_grow_with_the_variance():
    features = drawn(50, (4, 3, 3))
    weights, variance = bias_weights(features), feature_variance(features)
    assert torch.equal(weights.argsort(), variance.argsort())
    assert weights.min() == 0.7
    assert weights.max() == torch.exp(torch.tensor(0.3)) - 0.3


@given(st.integers(2, 12), st.floats(1e-3, 1e3), st.floats(-5, 5), st.randoms())
def test_scale_shift_and_order_of_samples_change_nothing(n, scale, shift, random):
    features = drawn(n, (3, 4, 4), random.randint(0, 99), torch.float64)
    weights = bias_weights(features)
    # The smallest range of 12 draws amplifies rounding 1e-16 by less than 1e6.
    torch.testing.assert_close(bias_weights(scale * features), weights, rtol=0, atol=1e-9)
    torch.testing.assert_close(bias_weights(features + shift), weights, rtol=0, atol=1e-9)
    order = torch.tensor(random.sample(range(n), n))
    torch.testing.assert_close(bias_weights(features[order]), weights[order], rtol=0, atol=1e-12)


def test_memory_format_changes_nothing_and_copies_nothing():
    features = drawn(6, (8, 5, 5))
    last = features.to(memory_format=torch.channels_last)
    torch.testing.assert_close(feature_variance(last), feature_variance(features))
    shares = features[::2, 1:, :, ::2]  # not contiguous
    torch.testing.assert_close(feature_variance(shares), feature_variance(shares.contiguous()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(dtype):
    features = drawn(16, (32, 7, 7), dtype=torch.float32)
    features = (features * 300 / features.amax()).to(dtype)  # squares overflow in fp16
    torch.testing.assert_close(
        bias_weights(features), bias_weights(features.float()), rtol=0, atol=1e-6
    )
    assert torch.isfinite(feature_variance(features)).all()


def test_a_large_offset_keeps_its_digits():
    features = torch.randn(8, 16, 4, 4, dtype=torch.float64)
    shifted = (features + 1000).float()
    wanted = torch.from_numpy(reference_variance(shifted.double()))
    # E[x^2] - E[x]^2 in float32 would be wrong by about 10 % here.
    torch.testing.assert_close(feature_variance(shifted).double(), wanted, rtol=2e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "features",
    [
        torch.zeros(8, 4, 3, 3),
        torch.full((8, 4, 3, 3), 3.3),
        torch.linspace(0.1, 9.7, 8)[:, None, None, None].expand(8, 96, 7, 7),  # a constant each
        drawn(1, (4, 3, 3)),
        drawn(1, (96, 7, 7)).expand(8, -1, -1, -1),
        drawn(1, (57, 7, 7)).repeat(9, 1, 1, 1),
        torch.ones(0, 4, 3, 3),
    ],
    ids=["zero", "constant", "constants", "one sample", "identical", "copies", "none"],
)
def test_without_a_range_all_weights_are_one(features, dtype):
    assert torch.equal(bias_weights(features.to(dtype)).float(), torch.ones(len(features)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_broken_sample_weighs_one_and_sets_no_range(bad):
    features = drawn(5, (4, 3, 3))
    rest = torch.tensor([0, 1, 3, 4])
    weights = bias_weights(features[rest])
    features[2, 1, 1, 1] = bad
    assert torch.equal(bias_weights(features)[rest], weights)
    assert bias_weights(features)[2] == 1
    assert torch.equal(bias_weights(torch.full((3, 4), bad)), torch.ones(3))


def test_no_gradient_and_no_change():
    features = drawn(4, (4, 3, 3)).requires_grad_()
    before = features.detach().clone()
    assert not bias_weights(features).requires_grad
    assert torch.equal(features, before)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (torch.rand(4, 1), r"shape \(4, 1\): a variance needs at least 2 values"),
        (torch.rand(4, 1, 1, 1), r"shape \(4, 1, 1, 1\).* global pooling"),
        (torch.rand(4), r"shape \(4,\)"),
        (torch.rand(4, 0), r"shape \(4, 0\)"),
        (torch.ones(4, 3, dtype=torch.int64), "torch.int64; give real floating-point"),
    ],
)
def test_what_has_no_variance(features, words):
    with pytest.raises(InputError, match=words):
        feature_variance(features)
    with pytest.raises(InputError, match=r"features of layer 'head\.pool'"):
        feature_variance(features, layer="head.pool")


@pytest.mark.parametrize(
    ("alpha", "beta"), [(-0.1, 0.3), (0.3, 1.0), (math.nan, 0), (0, -math.inf)]
)
def test_weights_are_positive_and_grow(alpha, beta):
    with pytest.raises(InputError, match="alpha must be from 0 to 20 and beta < 1"):
        bias_weights(torch.rand(3, 4), alpha, beta)


def test_alpha_zero_is_a_constant():
    weights = bias_weights(drawn(4, (4, 3, 3)), alpha=0.0, beta=0.25)
    assert torch.equal(weights, torch.full((4,), 0.75))
