"""FilterPrior: its parts, its precision and its penalty."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convprior.errors import InputError
from convprior.filters import FilterPrior, tap_correlation, tap_costs
from convprior.filters.reference import reference_penalty, reference_precision_penalty

PRIORS = [
    FilterPrior.independent(3),
    FilterPrior.locality(3),
    FilterPrior.locality((3, 5), "linear", 0.5),
    FilterPrior.locality(4, "gaussian", 0.1, parameter=2.0, control="reversed"),
    FilterPrior.correlated(3, "squared_exponential", 1.0),
    FilterPrior.correlated((1, 5), "matern32", 2.0),
    FilterPrior.correlated((2, 3, 2), "exponential", 1.5),
    FilterPrior.mean_pool(2),
    FilterPrior.locality(1),
]
SINGULAR = FilterPrior.mean_pool(3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_covariance_is_the_product_of_its_parts(prior):
    taps = math.prod(prior.kernel_size)
    assert prior.variance.shape == prior.kernel_size
    deviation = torch.diag(prior.variance.flatten().sqrt())
    torch.testing.assert_close(prior.covariance, deviation @ prior.correlation @ deviation)
    assert float(prior.covariance.trace()) == pytest.approx(taps, abs=1e-12)
    assert float(prior.kernel_covariance().sum()) == pytest.approx(1, abs=1e-12)
    if prior.kernel_size != (2, 2):
        identity = torch.eye(taps, dtype=torch.float64)
        torch.testing.assert_close(prior.precision @ prior.covariance, identity)


@pytest.mark.parametrize(
    ("floor", "center", "edge", "corner", "ratio"),
    [(0.25, 3.0426, 0.9362, 0.5532, 2.345), (0.5, 1.8421, 1.0526, 0.7368, 1.581)],
)
def test_variance_profile_of_the_quadratic_law(floor, center, edge, corner, ratio):
    variance = FilterPrior.locality(3, floor=floor).variance
    values = [float(variance[i]) for i in ((1, 1), (0, 1), (0, 0))]
    assert values == pytest.approx([center, edge, corner], abs=5e-5)
    assert math.sqrt(values[0] / values[2]) == pytest.approx(ratio, abs=5e-4)


def test_independent_is_a_ninth_of_identity_for_kernels():
    kernel = FilterPrior.independent(3).kernel_covariance()
    torch.testing.assert_close(kernel, torch.eye(9, dtype=torch.float64) / 9)
    kernel = FilterPrior.mean_pool(3).kernel_covariance()
    torch.testing.assert_close(kernel, torch.full((9, 9), 1 / 81, dtype=torch.float64))


def test_correlation_families():
    r = math.sqrt(2) / 1.5  # taps 0 and 4 of a 3x3 kernel, length scale 1.5
    values = {
        "squared_exponential": math.exp(-(r**2) / 2),
        "matern32": (1 + math.sqrt(3) * r) * math.exp(-math.sqrt(3) * r),
        "exponential": math.exp(-r),
    }
    for family, value in values.items():
        assert float(tap_correlation(3, family, 1.5)[0, 4]) == pytest.approx(value, rel=1e-14)
        assert FilterPrior.correlated(3, family, 0.0) == FilterPrior.independent(3)
        assert FilterPrior.correlated(3, family, math.inf) == FilterPrior.mean_pool(3)


@settings(max_examples=30)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    st.sampled_from(["squared_exponential", "matern32", "exponential"]),
    st.floats(0.1, 20),
)
def test_correlated_priors_of_every_kernel_size(size, family, lengthscale):
    prior = FilterPrior.correlated(size, family, lengthscale)
    taps = math.prod(size)
    # Its entries depend on the distance alone, so turning the filter round changes nothing.
    assert torch.equal(prior.covariance, prior.covariance.flip(0, 1))
    assert torch.equal(prior.variance, torch.ones(size, dtype=torch.float64))
    assert 1 <= prior.rank <= taps
    assert FilterPrior.correlated(size, family, 0.0) == FilterPrior.independent(size)
    pool = FilterPrior.correlated(size, family, math.inf)
    assert pool == FilterPrior.mean_pool(size)
    assert pool.rank == 1
    # Between the limits: no pair of taps goes together less than at half the length scale.
    shorter = FilterPrior.correlated(size, family, lengthscale / 2)
    assert bool((shorter.covariance <= prior.covariance).all())


def test_equality_hash_and_repr():
    assert FilterPrior.locality(3) == FilterPrior.locality((3, 3), "quadratic", 0.25)
    assert hash(FilterPrior.locality(3)) == hash(FilterPrior.locality(3))
    assert FilterPrior.locality(3) != FilterPrior.locality(3, floor=0.5)
    assert FilterPrior.independent((1, 9)) != FilterPrior.independent(3)
    assert FilterPrior.independent(3) != "independent"
    shown = "FilterPrior.locality(kernel_size=(3, 3), law='quadratic', floor=0.25)"
    assert repr(FilterPrior.locality(3)) == shown
    same = FilterPrior.locality(kernel_size=(3, 3), law="quadratic", floor=0.25)
    assert same == FilterPrior.locality(3)
    prior = FilterPrior.independent(3)
    prior.variance.zero_()
    assert prior == FilterPrior.independent(3), "what a property returns must not be the state"


@given(st.integers(1, 4), st.integers(1, 3), st.sampled_from(PRIORS[:7]))
def test_penalty_is_the_precision_form(out, channels, prior):
    weight = torch.randn(out, channels, *prior.kernel_size, dtype=torch.float64)
    expected = reference_precision_penalty(weight, prior.covariance)
    assert prior.penalty(weight).item() == pytest.approx(expected, rel=1e-10)


def test_penalty_of_a_locality_prior_is_the_locality_penalty():
    weight = torch.randn(5, 4, 3, 3, dtype=torch.float64)
    for floor in (0.1, 0.5, 1.0):
        expected = reference_penalty(weight, tap_costs(3, floor=floor), 1.0)
        found = float(FilterPrior.locality(3, floor=floor).penalty(weight))
        assert found == pytest.approx(expected, rel=1e-12)


def test_penalty_gradient():
    weight = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(FilterPrior.correlated(3).penalty, weight)
    assert torch.autograd.gradcheck(FilterPrior.locality(3).penalty, weight)


def test_penalty_under_autocast_keeps_float32():
    weight = torch.randn(64, 64, 3, 3, generator=seeded())
    prior = FilterPrior.correlated(3, lengthscale=0.7)
    with torch.autocast("cpu", torch.bfloat16):
        found = prior.penalty(weight)
    torch.testing.assert_close(found, prior.penalty(weight))
    assert prior.penalty(weight.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("family", ["squared_exponential", "matern32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_penalty_is_never_negative(family, dtype):
    # Condition 7e9 or less: in float32 w'Aw itself would be a difference of larger numbers.
    prior = FilterPrior.correlated(5, family, 3.0)
    weight = prior.sample(8, 4, seeded(), dtype=torch.float64).to(dtype)
    found, exact = float(prior.penalty(weight)), float(prior.penalty(weight.double()))
    assert found == pytest.approx(exact, rel=1e-2)
    for one in weight.flatten(0, 1)[:, None, None]:
        assert float(prior.penalty(one)) >= 0
    flat = torch.ones(4, 4, 5, 5, dtype=dtype)
    assert float(prior.penalty(flat)) >= 0
    expected = reference_precision_penalty(flat.double(), prior.covariance)
    assert float(prior.penalty(flat.double())) == pytest.approx(expected, rel=1e-5)


def test_variances_of_every_scale_and_form():
    ones = FilterPrior.independent((2,))
    for value in (1e308, 1e-308, 1e-320, 1.0):
        assert FilterPrior(torch.full((2,), value, dtype=torch.float64)) == ones
    assert FilterPrior([1.0, 1.0]) == ones
    assert FilterPrior([[1.0, 3.0]], [[1.0, 0.5], [0.5, 1.0]]).variance.tolist() == [[0.5, 1.5]]
    assert FilterPrior(torch.ones(2).numpy()) == ones
    wide = FilterPrior([1e-240, 1.0])
    assert bool(torch.isfinite(wide.precision).all())
    assert math.isfinite(float(wide.penalty(torch.ones(1, 1, 2, dtype=torch.float64))))


def test_a_huge_kernel_needs_no_matrix():
    prior = FilterPrior.locality(200)
    same = FilterPrior.separable(*[FilterPrior.locality((200,))] * 2)
    assert prior.rank == 40_000
    assert prior.condition > 1
    assert prior == FilterPrior.locality(200)
    assert hash(prior) == hash(FilterPrior.locality(200))
    assert prior != same
    assert prior.sample(1, 1, seeded(), normalize="sum").shape == (1, 1, 200, 200)
    found = prior.penalty(torch.ones(1, 1, 200, 200, dtype=torch.float64))
    assert float(found) == pytest.approx(40_000)
    for derived in (prior * same, prior.shrink(0.1, same), prior.scaled(same), same.uncorrelated()):
        assert derived.is_diagonal
    for call in (
        lambda: prior.correlation,
        lambda: prior.covariance,
        lambda: prior.precision,
        lambda: prior.factors,
        prior.kernel_covariance,
        prior.chart,
        lambda: FilterPrior.correlated(200),
        lambda: FilterPrior.mean_pool(65),
        lambda: FilterPrior.separable(FilterPrior.mean_pool((65,)), FilterPrior.independent((65,))),
        lambda: FilterPrior(torch.ones(65, 65), torch.eye(2)),
        lambda: FilterPrior.measured(torch.ones(2, 1, 65, 65)),
    ):
        with pytest.raises(InputError, match=r"the limit is 4096 taps; give a smaller kernel"):
            call()


def bad_correlation(value):
    correlation = torch.eye(9, dtype=torch.float64)
    correlation[0, 1] = correlation[1, 0] = value
    return correlation


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FilterPrior.locality(3, floor=0), r"variance is infinite; give floor > 0"),
        (
            lambda: SINGULAR.precision,
            r"is singular \(rank 1 of 9\), so it has no precision; use prior\.shrink\(0\.01\), or "
            r"penalty\(w, subspace=True\)$",
        ),
        (lambda: SINGULAR.penalty(torch.zeros(1, 1, 3, 3)), r"singular \(rank 1 of 9\)"),
        (lambda: SINGULAR.penalty(torch.zeros(1, 1, 5, 5)), r"kernel size \(5, 5\)"),
        (lambda: FilterPrior(torch.zeros(3, 3)), "must be > 0"),
        (lambda: FilterPrior([1.0, math.inf]), "a tap variance is inf"),
        (lambda: FilterPrior([1e-320, 1.0]), r"reach from 9\.99\d+e-321 to 1, too far"),
        (lambda: FilterPrior("ab"), "variance is no tensor of real numbers"),
        (lambda: FilterPrior(None), "variance is no tensor of real numbers"),
        (lambda: FilterPrior([[1.0], [1.0, 2.0]]), "variance is no tensor of real numbers"),
        (lambda: FilterPrior([10**400]), "variance is no tensor of real numbers"),
        (lambda: FilterPrior(torch.ones(2) + 1j), "torch.complex64 on cpu"),
        (lambda: FilterPrior(torch.ones(2, device="meta")), "on meta"),
        (lambda: FilterPrior([1.0, 1.0], "no"), "correlation is no tensor of real numbers"),
        (lambda: FilterPrior(3.0), r"the shape of variance is \(\)"),
        (lambda: FilterPrior(torch.ones(3, 3), bad_correlation(1.5)), r"eigenvalue is -0\.5"),
        (lambda: FilterPrior(torch.ones(3, 3), torch.eye(4)), r"need \(9, 9\)"),
        (lambda: FilterPrior(torch.ones(3, 3), 2 * torch.eye(9)), "ones on its diagonal"),
        (lambda: FilterPrior.correlated(3, "cosine"), "family is 'cosine'"),
        (lambda: FilterPrior.correlated(3, lengthscale=-1), "lengthscale is -1"),
        (lambda: FilterPrior.correlated(3, lengthscale=math.nan), "lengthscale is nan"),
        (lambda: FilterPrior.independent(3).shrink(2), "shrinkage is 2"),
        (lambda: FilterPrior.independent(3).init_(nn.Linear(3, 3)), "Linear is no convolution"),
        (lambda: FilterPrior.independent(3).init_(nn.Conv2d(3, 3, 5)), r"kernel size \(5, 5\)"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_entries_that_sum_to_zero_cannot_be_made_to_sum_to_one():
    correlation = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    prior = FilterPrior(torch.ones(1, 2), correlation)
    with pytest.raises(InputError, match="cannot be scaled to sum to 1"):
        prior.kernel_covariance()
