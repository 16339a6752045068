"""Cohesion against loops, against the table of its maximizers, and at its limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convprior.errors import InputError
from convprior.filters import (
    FilterPrior,
    closeness,
    feature_cohesion,
    most_cohesive_filter,
    tap_correlation,
)
from convprior.filters.cohesion.cohesion import cohesion_matrix
from convprior.filters.cohesion.reference import (
    reference_cohesion,
    reference_power_iteration,
    reference_relation,
)

LAWS = {
    "exponential": lambda d: math.exp(-d),
    "squared_exponential": lambda d: math.exp(-d * d / 2),
    "matern32": lambda d: (1 + math.sqrt(3) * d) * math.exp(-math.sqrt(3) * d),
}
SIZES = st.one_of(
    st.tuples(st.integers(1, 7)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
)

# Kernel, law, scale: center/edge, center/corner, lambda_max, center/corner of the row sums,
# cohesion of the uniform filter. Derived apart from this code.
TABLE = [
    (3, "exponential", 1, 1.226, 1.495, 2.8511, 1.365, 0.9856),
    (3, "exponential", 2, 1.130, 1.269, 4.7015, 1.244, 0.9941),
    (3, "squared_exponential", 1, 1.307, 1.708, 3.7176, 1.614, 0.9700),
    (5, "exponential", 1, 1.544, 2.359, 4.0877, 1.760, 0.9591),
    (5, "exponential", 2, 1.312, 1.694, 8.5819, 1.583, 0.9793),
    (5, "squared_exponential", 1, 1.794, 3.219, 4.9155, 2.007, 0.9333),
    (7, "exponential", 1, 1.880, 3.490, 4.8310, 1.998, 0.9430),
    (7, "exponential", 2, 1.503, 2.212, 11.8090, 1.911, 0.9646),
    (7, "squared_exponential", 1, 2.304, 5.309, 5.4524, 2.043, 0.9253),
]


@pytest.mark.parametrize(("k", "law", "scale", "edge", "corner", "largest", "rows", "flat"), TABLE)
def test_table(k, law, scale, edge, corner, largest, rows, flat):
    taps, near, middle = most_cohesive_filter(k, law, scale), closeness(k, law, scale), k // 2
    assert float(taps[middle, middle] / taps[0, middle]) == pytest.approx(edge, abs=5e-4)
    assert float(taps[middle, middle] / taps[0, 0]) == pytest.approx(corner, abs=5e-4)
    assert float(near[middle, middle] / near[0, 0]) == pytest.approx(rows, abs=5e-4)
    ones = torch.ones(1, 1, k, k, dtype=torch.float64)
    assert feature_cohesion(ones, law, scale).item() == pytest.approx(flat, abs=5e-5)
    best = feature_cohesion(taps[None, None], law, scale, normalize=False)
    assert best.item() == pytest.approx(largest, abs=5e-5)


def test_even_kernel():
    taps = most_cohesive_filter(4)
    assert taps.norm().item() == pytest.approx(1)
    found = [float(taps[1, 1]), float(taps[0, 1]), float(taps[0, 0])]
    assert found == pytest.approx([0.320, 0.240, 0.181], abs=5e-4)


@given(sizes=SIZES, law=st.sampled_from(list(LAWS)), data=st.data())
def test_against_loops(sizes, law, data):
    shape = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2)), *sizes)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    relation = reference_relation(sizes, LAWS[law])
    torch.testing.assert_close(cohesion_matrix(sizes, law), relation, atol=1e-15, rtol=0)
    found = feature_cohesion(weight, law)
    torch.testing.assert_close(found, reference_cohesion(weight, relation), atol=1e-12, rtol=0)
    assert bool((found > 0).all())
    assert bool((found <= 1 + 1e-12).all())


@given(sizes=SIZES, law=st.sampled_from(list(LAWS)), scale=st.floats(0.3, 4))
def test_the_maximizer(sizes, law, scale):
    taps = most_cohesive_filter(sizes, law, scale)
    assert bool((taps > 0).all())
    assert taps.norm().item() == pytest.approx(1, abs=1e-12)
    score = feature_cohesion(taps[None, None], law, scale)
    assert score.item() == pytest.approx(1, abs=1e-12)
    for axis in range(len(sizes)):
        torch.testing.assert_close(taps, taps.flip(axis), atol=1e-9, rtol=0)
    # It falls from the middle outward along every axis.
    for axis, k in enumerate(sizes):
        steps = taps.narrow(axis, 0, (k + 1) // 2).diff(dim=axis)
        assert bool((steps > 0).all())


def test_power_iteration_agrees():
    relation = tap_correlation((3, 4), "exponential", 1.0)
    expected = reference_power_iteration(relation).view(3, 4)
    torch.testing.assert_close(most_cohesive_filter((3, 4)), expected, atol=1e-12, rtol=0)


def test_scale_and_sign_do_not_matter():
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = feature_cohesion(weight)
    torch.testing.assert_close(feature_cohesion(-weight), expected)
    for factor in (1e-38, 1e-25, 1e30):  # the squares would underflow or overflow
        torch.testing.assert_close(feature_cohesion(weight * factor), expected, rtol=1e-4, atol=0)


def test_one_hot_and_independent_filters_score_the_inverse_eigenvalue():
    largest = float(torch.linalg.eigvalsh(tap_correlation(3, "exponential", 1.0))[-1])
    spikes = torch.eye(9, dtype=torch.float64).view(9, 1, 3, 3)
    torch.testing.assert_close(
        feature_cohesion(spikes), torch.full((9, 1), 1 / largest, dtype=torch.float64)
    )
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(100_000, 1, 3, 3, generator=generator, dtype=torch.float64)
    # w'Rw/lambda_max has mean 9/lambda_max and variance 2 ||R||^2 / lambda_max^2.
    raw = (feature_cohesion(noise).squeeze() * noise.flatten(1).square().sum(1)).mean() / 9
    spread = math.sqrt(2) * float(tap_correlation(3, "exponential", 1.0).norm()) / largest / 9
    assert abs(float(raw) - 1 / largest) < 4 * spread / math.sqrt(100_000)


def test_limit_of_a_constant_law_is_uniform():
    for law, scale in (("exponential", math.inf), (lambda d: torch.ones_like(d), 1.0)):
        taps = most_cohesive_filter(3, law, scale)
        torch.testing.assert_close(taps, torch.full_like(taps, 1 / 3), atol=1e-12, rtol=0)


def test_limit_of_no_relation_has_no_maximizer():
    for law, scale in (("exponential", 0.0), (lambda d: (d == 0).double(), 1.0)):
        with pytest.raises(InputError, match="several filters are equally cohesive"):
            most_cohesive_filter(3, law, scale)
        weight = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(feature_cohesion(weight, law, scale), torch.ones(5, 2))
    assert most_cohesive_filter(1, scale=0.0).tolist() == [[1.0]]


def test_a_growing_law_is_heaviest_outside():
    taps = most_cohesive_filter(5, lambda d: d)
    assert float(taps[0, 0]) > float(taps[0, 2]) > float(taps[2, 2]) > 0


def test_own_law_scales_and_matrix_is_taken():
    torch.testing.assert_close(
        most_cohesive_filter(3, lambda d: torch.exp(-d), 2.0), most_cohesive_filter(3, scale=2.0)
    )
    given_matrix = tap_correlation(3, "exponential", 2.0)
    torch.testing.assert_close(
        closeness(3, given_matrix.float()), closeness(3, scale=2.0), atol=1e-6, rtol=0
    )
    weight = FilterPrior.correlated(3, lengthscale=1.0).sample(2, 2, torch.Generator())
    torch.testing.assert_close(
        feature_cohesion(weight, given_matrix), feature_cohesion(weight, scale=2.0)
    )


def test_a_matrix_with_negative_entries_keeps_its_leading_filter():
    # Neighbors opposed: the leading filter alternates, and its sum stays positive.
    taps = most_cohesive_filter((1, 3), torch.tensor([[1, -0.5, 0], [-0.5, 1, -0.5], [0, -0.5, 1]]))
    root = math.sqrt(2)
    expected = torch.tensor([[1, -root, 1]], dtype=torch.float64) / 2
    torch.testing.assert_close(taps, expected, atol=1e-9, rtol=0)
    # An antisymmetric one sums to rounding; its largest tap is positive.
    assert most_cohesive_filter((1, 2), torch.tensor([[1, -0.5], [-0.5, 1]])).abs().min() > 0.7


def test_gradients():
    weight = torch.randn(
        2, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    weight.requires_grad_(True)
    for normalize in (True, False):
        assert torch.autograd.gradcheck(
            lambda w, n=normalize: feature_cohesion(w, normalize=n), weight
        )
    assert torch.autograd.gradgradcheck(feature_cohesion, weight)
    # The quotient does not change with the filter's scale: its gradient is orthogonal to it.
    (gradient,) = torch.autograd.grad(feature_cohesion(weight).sum(), weight)
    assert float((gradient * weight.detach()).flatten(2).sum(-1).abs().max()) < 1e-12


def test_filters_of_zeros():
    weight = torch.ones(2, 2, 3, 3)
    weight[1, 0] = 0
    found = feature_cohesion(weight)
    assert found.isnan().tolist() == [[False, False], [True, False]]
    assert feature_cohesion(weight, zero=0.0)[1, 0] == 0
    weight.requires_grad_(True)
    feature_cohesion(weight, zero=0.0).sum().backward()
    assert weight.grad is not None
    assert bool(weight.grad.isfinite().all())
    assert float(weight.grad[1, 0].abs().max()) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    weight = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(3)).to(dtype)
    found = feature_cohesion(weight)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, feature_cohesion(weight.float()))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(feature_cohesion(weight), found)


@pytest.mark.parametrize(
    ("law", "scale", "message"),
    [
        ("gauss", 1.0, "choose one of squared_exponential"),
        (3, 1.0, "law is 3"),
        ("gaussian", 1.0, "^law is 'gaussian'; did you mean 'squared_exponential'"),
        ("matern23", 1.0, "did you mean 'matern32'"),
        ("cubic", 1.0, "choose one of squared_exponential"),
        ("exponential", -1.0, "^scale is -1.0"),
        (lambda d: d, 0.0, "needs one > 0"),
        (lambda d: d.sum(), 1.0, r"shape \(\)"),
        (torch.eye(4), 1.0, r"needs \(9, 9\)"),
        (torch.eye(9), 2.0, "a given matrix has none"),
        (torch.zeros(9, 9), 1.0, "not all 0"),
        (torch.full((9, 9), math.nan), 1.0, "finite"),
        (torch.ones(9, 9).triu(), 1.0, "not symmetric"),
        (-torch.eye(9), 1.0, "positive entries"),
    ],
)
def test_wrong_laws(law, scale, message):
    with pytest.raises(InputError, match=message):
        feature_cohesion(torch.ones(1, 1, 3, 3), law, scale)


def test_a_weight_without_kernel_axes():
    with pytest.raises(InputError, match="no kernel axes"):
        feature_cohesion(torch.ones(3, 3))


def test_a_network_is_no_weight():
    with pytest.raises(InputError, match=r"weight is a Conv2d; give .* model\.conv1\.weight"):
        feature_cohesion(torch.nn.Conv2d(3, 3, 3))
