"""Priors made from priors: products, scales, separable ones; and singular ones in their subspace.

The oracles take every entry on its own (``reference_prior``).
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convprior.errors import InputError
from convprior.filters import FilterPrior
from convprior.filters.prior.reference import (
    reference_kronecker,
    reference_product,
    reference_pseudo_inverse,
    reference_scaled,
)

EXACT = {"rtol": 1e-12, "atol": 1e-12}  # some thousand roundings of float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_prior(size, seed, filters=None):
    """A prior without structure, of full rank or of the rank ``filters``."""
    taps = math.prod(size)
    filters = 2 * taps if filters is None else filters
    weight = torch.randn(filters, 1, *size, generator=seeded(seed), dtype=torch.float64)
    return FilterPrior.measured(weight)


# One to three axes of 1 to 5 taps; of the cubes those that the entrywise oracles can bear.
sizes = (
    st.lists(st.integers(1, 5), min_size=1, max_size=3)
    .map(tuple)
    .filter(lambda size: math.prod(size) <= 36)
)


@settings(max_examples=30)
@given(sizes, st.integers(0, 9))
def test_product_and_scaled_equal_their_loops(size, seed):
    first, second = random_prior(size, seed), random_prior(size, seed + 100)
    expected = reference_product(first.covariance, second.covariance)
    torch.testing.assert_close((first * second).covariance, expected, **EXACT)
    assert first * second == first.product(second)
    profile = 0.5 + torch.rand(size, generator=seeded(seed), dtype=torch.float64)
    expected = reference_scaled(first.covariance, profile.flatten().tolist())
    torch.testing.assert_close(first.scaled(profile).covariance, expected, **EXACT)
    by_prior = first.scaled(second)
    expected = reference_scaled(first.covariance, second.variance.sqrt().flatten().tolist())
    torch.testing.assert_close(by_prior.covariance, expected, **EXACT)
    torch.testing.assert_close(by_prior.correlation, first.correlation, **EXACT)


@settings(max_examples=30)
@given(sizes, st.integers(0, 9))
def test_separable_equals_its_loops_and_gives_its_factors_back(size, seed):
    axes = [random_prior((k,), seed + i) for i, k in enumerate(size)]
    prior = FilterPrior.separable(*axes)
    assert prior.kernel_size == size
    expected = reference_kronecker([axis.covariance for axis in axes])
    torch.testing.assert_close(prior.covariance, expected, **EXACT)
    for factor, axis in zip(prior.factors, axes, strict=True):
        torch.testing.assert_close(factor, axis.covariance, **EXACT)


@settings(max_examples=30)
@given(sizes.filter(lambda size: sum(k > 1 for k in size) > 1), st.integers(0, 9))
def test_factors_exist_where_the_rearranged_matrix_has_rank_one(size, seed):
    # Van Loan and Pitsianis: A (x) B, its blocks written as rows, is vec(A) vec(B)'.
    unstructured = random_prior(size, seed)
    assert unstructured.factors is None
    axes = [random_prior((k,), seed + i) for i, k in enumerate(size)]
    for prior, separable in ((unstructured, False), (FilterPrior.separable(*axes), True)):
        k, rest = size[0], math.prod(size[1:])
        blocks = prior.covariance.view(k, rest, k, rest).transpose(1, 2).reshape(k * k, -1)
        values = torch.linalg.svdvals(blocks)
        second = float(values[1]) if len(values) > 1 else 0.0
        if k > 1 and rest > 1:
            assert (second < 1e-12 * float(values[0])) == separable


def test_families_that_are_separable():
    for size in ((3, 3), (2, 5), (3, 1, 4)):
        smooth = FilterPrior.correlated(size, "squared_exponential", 1.3)
        axes = [FilterPrior.correlated((k,), "squared_exponential", 1.3) for k in size]
        product = FilterPrior.separable(*axes)
        torch.testing.assert_close(smooth.covariance, product.covariance, **EXACT)
        for prior in (smooth, FilterPrior.independent(size), FilterPrior.mean_pool(size)):
            assert len(prior.factors) == len(size)
    assert FilterPrior.correlated(3, "exponential").factors is None
    assert FilterPrior.correlated(3, "matern32").factors is None
    assert FilterPrior.locality(3).factors is None
    assert len(FilterPrior.locality((1, 7)).factors) == 2


@given(st.floats(0.3, 5), st.floats(0.3, 5))
def test_length_scales_of_a_product(first, second):
    # exp(-d^2/2a^2) exp(-d^2/2b^2) and exp(-d/a) exp(-d/b) are of the same family.
    for family, power in (("squared_exponential", 2), ("exponential", 1)):
        joint = (first**-power + second**-power) ** (-1 / power)
        product = FilterPrior.correlated(3, family, first) * FilterPrior.correlated(
            3, family, second
        )
        expected = FilterPrior.correlated(3, family, joint)
        torch.testing.assert_close(product.covariance, expected.covariance, **EXACT)


def test_neutral_and_absorbing_factors():
    prior = random_prior((3, 3), 0)
    assert prior * FilterPrior.mean_pool(3) == prior
    assert (prior * FilterPrior.independent(3)).is_diagonal
    flat = prior.scaled(torch.ones(3, 3))
    torch.testing.assert_close(flat.covariance, prior.covariance, **EXACT)
    assert prior.uncorrelated() == FilterPrior(prior.variance)
    twice = prior.scaled(torch.full((3, 3), 1e200, dtype=torch.float64))
    torch.testing.assert_close(twice.covariance, prior.covariance, **EXACT)


@settings(max_examples=30)
@given(sizes, st.integers(1, 12), st.integers(0, 9))
def test_rank_condition_and_subspace(size, filters, seed):
    taps = math.prod(size)
    prior = random_prior(size, seed, filters)
    rank = min(filters, taps)
    assert (prior.rank, prior.is_singular) == (rank, rank < taps)
    inverse = prior.subspace_precision()
    projector = inverse @ prior.covariance
    # The four conditions of Penrose come down to these for symmetric matrices.
    scale = float(inverse.abs().max()) * taps
    assert float((projector - projector.T).abs().max()) < 1e-13 * scale
    assert float(projector.trace()) == pytest.approx(rank, abs=1e-12 * scale)
    expected = reference_pseudo_inverse(prior.covariance)
    torch.testing.assert_close(inverse, expected, rtol=0, atol=1e-13 * scale * scale)
    if rank < taps:
        assert prior.condition == math.inf
        with pytest.raises(InputError, match=rf"is singular \(rank {rank} of {taps}\)"):
            _ = prior.precision
    else:
        values = torch.linalg.eigvalsh(prior.covariance)
        expected_condition = float(values[-1] / values[0])
        assert prior.condition == pytest.approx(expected_condition, rel=1e-12 * scale)


def test_condition_does_not_take_scaled_taps_for_singular():
    profile = torch.tensor([[1.0, 1e-9, 1.0]], dtype=torch.float64)
    for prior in (FilterPrior.independent((1, 3)), FilterPrior.correlated((1, 3))):
        tiny = prior.scaled(profile)
        assert tiny.rank == 3
        assert tiny.condition > 1e17
        identity = torch.eye(3, dtype=torch.float64)
        product = tiny.precision @ tiny.covariance
        # Row 1 multiplies a precision of 1e18 with what was rounded at 1e-18 of it.
        torch.testing.assert_close(product[::2, ::2], identity[::2, ::2], rtol=1e-9, atol=1e-9)
        assert float(product[1, 1]) == pytest.approx(1, rel=1e-9)


@given(st.integers(1, 8), st.integers(0, 9))
def test_subspace_penalty_is_exact_for_filters_of_the_prior(rank, seed):
    prior = random_prior((3, 3), seed, rank)
    basis = torch.randn(rank, 1, 3, 3, generator=seeded(seed), dtype=torch.float64)
    mixture = torch.randn(5, rank, generator=seeded(seed + 1), dtype=torch.float64)
    inside = (mixture @ basis.flatten(1)).view(5, 1, 3, 3)
    pseudo = reference_pseudo_inverse(prior.covariance)
    rows = inside.flatten(1)
    expected = float(((rows @ pseudo) * rows).sum()) * rank / float(pseudo.trace())
    found = float(prior.penalty(inside, subspace=True))
    assert found == pytest.approx(expected, rel=1e-7)
    # What lies outside the subspace adds nothing.
    normal = torch.linalg.svd(basis.flatten(1), full_matrices=True).Vh[-1].view(1, 1, 3, 3)
    assert float(prior.penalty(inside + normal, subspace=True)) == pytest.approx(found, rel=1e-6)
    with pytest.raises(InputError, match="no precision"):
        prior.penalty(inside)


def test_subspace_penalty_of_equal_taps_is_plain_l2():
    weight = torch.full((4, 2, 3, 3), 0.5, dtype=torch.float64)
    found = FilterPrior.mean_pool(3).penalty(weight, subspace=True)
    assert float(found) == pytest.approx(float(weight.square().sum()), rel=1e-12)
    full = FilterPrior.correlated(3)
    assert torch.equal(full.penalty(weight, subspace=True), full.penalty(weight))


def test_draws_of_a_singular_prior_lie_in_its_subspace():
    prior = random_prior((3, 3), 3, 4)
    draws = prior.sample(100_000, 1, seeded(), gain=3.0, dtype=torch.float64).flatten(1)
    # gain^2 / fan_in = 1, so w' Sigma^+ w is chi-square with 4 degrees: mean 4, variance 8.
    squares = ((draws @ prior.subspace_precision()) * draws).sum(1)
    assert abs(float(squares.mean()) - 4) < 4 * math.sqrt(8 / len(draws))
    assert int(torch.linalg.matrix_rank(draws[:50], rtol=1e-6)) == 4


def test_reprs_tell_how_a_prior_was_made():
    smooth, central = FilterPrior.correlated((3,)), FilterPrior.locality((3,))
    priors = [
        smooth * central,
        smooth.scaled(central),
        smooth.uncorrelated(),
        smooth.shrink(0.1),
        smooth.shrink(0.1, central),
        FilterPrior.separable(smooth, central),
        FilterPrior.locality(3, control="permuted", seed=3),
        FilterPrior.mean_pool(3).shrink(0.5),
    ]
    for prior in priors:
        assert eval(repr(prior), {"FilterPrior": FilterPrior}) == prior
        assert "\n" not in repr(prior)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p * FilterPrior.locality(5), r"other prior has kernel size \(5, 5\)"),
        (lambda p: p.scaled(torch.ones(5)), r"the profile has kernel size \(5,\)"),
        (lambda p: p.scaled(torch.zeros(3, 3)), "a factor of the profile is 0"),
        (lambda p: p.scaled(torch.full((3, 3), math.inf)), "a factor of the profile is inf"),
        (lambda p: p.shrink(0.1, FilterPrior.locality(5)), r"shrink toward has kernel size"),
        (lambda p: FilterPrior.separable(), "got kernel sizes none"),
        (lambda p: FilterPrior.separable(p), r"got kernel sizes \(3, 3\); give one to three 1-d"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call(FilterPrior.correlated(3))
    with pytest.raises(TypeError):
        _ = FilterPrior.correlated(3) * 2
