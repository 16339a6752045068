"""Tap costs: the value table, the invariants and the controls."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convprior.errors import InputError
from convprior.filters import tap_costs, tap_distances
from convprior.filters.laws import as_kernel_size, changing_permutation, costs_of_shape
from convprior.filters.reference import reference_tap_costs

LAWS = ["quadratic", "linear", "geometric", "gaussian", "two_level"]
sizes = st.lists(st.integers(1, 11), min_size=1, max_size=3).map(tuple)


@given(st.sampled_from(LAWS), sizes, st.floats(0, 1))
def test_every_law_equals_its_loop_and_has_mean_one(law, size, floor):
    costs = tap_costs(size, law, floor)
    assert costs.dtype == torch.float64
    assert abs(float(costs.mean()) - 1) < 1e-12
    assert bool((costs >= 0).all())
    torch.testing.assert_close(costs, reference_tap_costs(size, law, floor), rtol=1e-12, atol=1e-12)


@given(st.sampled_from(LAWS), st.integers(1, 11), st.floats(0, 1))
def test_square_kernels_have_the_symmetry_of_the_square_exactly(law, size, floor):
    costs = tap_costs(size, law, floor)
    for image in (costs.T, costs.flip(0), costs.flip(1), costs.rot90()):
        assert torch.equal(costs, image)


@given(st.sampled_from(LAWS), sizes, st.floats(0, 1))
def test_costs_never_fall_outward(law, size, floor):
    order = tap_distances(size).flatten().argsort()
    ordered = tap_costs(size, law, floor).flatten()[order]
    assert bool((ordered.diff() >= -1e-12).all())


@pytest.mark.parametrize(
    ("law", "edge", "corner"),
    [
        ("quadratic", 0.7500, 1.5000),
        ("linear", 0.9320, 1.3180),
        ("geometric", 0.8442, 1.4058),
        ("gaussian", 0.8632, 1.3868),
        ("two_level", 1.1250, 1.1250),
    ],
)
def test_values_on_three_by_three(law, edge, corner):
    costs = tap_costs(3, law)
    assert float(costs[1, 1]) == 0.0
    assert float(costs[0, 1]) == pytest.approx(edge, abs=5e-5)
    assert float(costs[0, 0]) == pytest.approx(corner, abs=5e-5)


def test_values_on_other_kernels():
    five = tap_costs(5)
    values = [float(five[i]) for i in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))]
    assert values == pytest.approx([2.0, 1.25, 1.0, 0.5, 0.25, 0.0])
    assert tap_costs((1, 7))[0].tolist() == pytest.approx([2.25, 1, 0.25, 0, 0.25, 1, 2.25])
    assert torch.equal(tap_costs((7, 1)), tap_costs((1, 7)).T)
    assert torch.equal(tap_costs((7,)), tap_costs((1, 7))[0])
    four = tap_costs(4)
    values = [float(four[i]) for i in ((1, 1), (0, 1), (0, 0))]
    assert values == pytest.approx([0.2, 1.0, 1.8])
    # Two-level on 4x4: the four nearest taps are the center and free, 12 share the mean of 1.
    assert tap_costs(4, "two_level")[1, 1] == 0
    assert float(tap_costs(4, "two_level")[0, 0]) == pytest.approx(16 / 12)


@pytest.mark.parametrize(("k", "mean"), [(2, 0.5), (3, 4 / 3), (4, 2.5), (5, 4.0), (7, 8.0)])
def test_mean_squared_distance(k, mean):
    assert float(tap_distances((k, k)).square().mean()) == pytest.approx(mean)


@pytest.mark.parametrize(
    ("k", "mean"), [(2, 0.7071), (3, 1.0730), (4, 1.4977), (5, 1.8744), (7, 2.6525)]
)
def test_mean_distance(k, mean):
    assert float(tap_distances(k).mean()) == pytest.approx(mean, abs=5e-5)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("size", [1, 2, (1, 1), (2, 1), (2, 2), (1,), (2, 2, 2)])
@pytest.mark.parametrize("control", [None, "reversed", "permuted"])
def test_equally_far_taps_pay_plain_l2(law, size, control):
    costs = tap_costs(size, law, control=control)
    assert torch.equal(costs, torch.ones_like(costs))


@pytest.mark.parametrize(("ratio", "floor"), [(2, 0.5294), (3, 0.3600)])
def test_two_level_with_a_center_to_rest_ratio(ratio, floor):
    costs = tap_costs(3, "two_level", 9 / (1 + 8 * ratio))
    assert 9 / (1 + 8 * ratio) == pytest.approx(floor, abs=5e-5)
    assert float(costs[0, 0] / costs[1, 1]) == pytest.approx(ratio)


def test_limits_of_the_parameters():
    near_one = tap_costs(5, "geometric", parameter=1 + 1e-9)
    torch.testing.assert_close(near_one, tap_costs(5, "linear"), rtol=1e-6, atol=1e-8)
    wide = tap_costs(5, "gaussian", parameter=1e4)
    torch.testing.assert_close(wide, tap_costs(5, "quadratic"), rtol=1e-6, atol=1e-8)
    narrow = tap_costs(5, "gaussian", parameter=1e-3)
    torch.testing.assert_close(narrow, tap_costs(5, "two_level"))


def test_reversed_control():
    costs = tap_costs(3, control="reversed")
    assert [float(costs[i]) for i in ((1, 1), (0, 1), (0, 0))] == pytest.approx([3, 1.5, 0])


@given(st.sampled_from(LAWS), sizes, st.integers(0, 50))
def test_permuted_control_has_the_same_values_elsewhere(law, size, seed):
    costs, permuted = tap_costs(size, law), tap_costs(size, law, control="permuted", seed=seed)
    torch.testing.assert_close(
        costs.flatten().sort().values, permuted.flatten().sort().values, rtol=1e-12, atol=0
    )
    assert torch.equal(permuted, tap_costs(size, law, control="permuted", seed=seed))
    if costs.min() < costs.max():
        assert not torch.equal(costs, permuted)


@given(st.sampled_from(LAWS), sizes, st.floats(0.01, 1))
def test_geometric_mean_normalization(law, size, floor):
    costs = tap_costs(size, law, floor, normalize="geomean")
    assert abs(float(costs.log().mean())) < 1e-12
    plain = tap_costs(size, law, floor)
    torch.testing.assert_close(costs / costs.mean(), plain, rtol=1e-10, atol=1e-12)


def test_one_permutation_for_all_controls():
    values = torch.tensor([1.0, 2.0, 1.0])
    orders = [
        changing_permutation(3, seed, lambda o: bool((values[o] != values).any()))
        for seed in range(30)
    ]
    assert all(not torch.equal(values[order], values) for order in orders)
    assert {tuple(order.sort().values.tolist()) for order in orders} == {(0, 1, 2)}
    shape = torch.arange(9.0).view(3, 3)
    order = changing_permutation(9, 4, lambda _: True)
    costs = costs_of_shape(shape, control="permuted", seed=4)
    assert torch.equal(costs, costs_of_shape(shape).flatten()[order].view(3, 3))


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8])
def test_integers_of_numpy_are_sizes(integer):
    assert torch.equal(tap_costs(integer(3)), tap_costs(3))
    stretched = tap_costs((integer(3), 5), "gaussian", dilation=integer(2))
    assert torch.equal(stretched, tap_costs((3, 5), "gaussian", dilation=2))
    assert all(type(k) is int for k in as_kernel_size(integer(3)))


def test_pixels_change_only_the_laws_with_a_length():
    for law in LAWS:
        same = torch.allclose(tap_costs(3, law, dilation=2), tap_costs(3, law))
        assert same == (law not in ("geometric", "gaussian"))
    stretched = tap_costs(3, dilation=(2, 1))
    assert float(stretched[0, 1] / stretched[1, 0]) == pytest.approx(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"floor": -0.1}, "floor is -0.1"),
        ({"floor": math.nan}, "floor is nan"),
        ({"floor": "a"}, "floor is 'a'"),
        ({"law": "quadratc"}, "law is 'quadratc'; did you mean 'quadratic'"),
        ({"law": 3}, "law is 3; choose one of quadratic"),
        ({"law": "gaussian", "parameter": 1e200}, r"1e\+200; give a number > 0.*1e\+100"),
        ({"law": "gaussian", "parameter": 1e-200}, "1e-200; give a number > 0"),
        ({"law": "gaussian", "parameter": "wide"}, "parameter of 'gaussian' is 'wide'"),
        ({"kernel_size": None}, "kernel_size is None"),
        ({"kernel_size": 3.0}, "kernel_size is 3.0"),
        ({"kernel_size": True}, "kernel_size is True"),
        ({"kernel_size": 1, "control": "x"}, "control is 'x'"),
        ({"dilation": 10**10}, "dilation 10000000000 is too large"),
        ({"dilation": 0}, "dilation is"),
        ({"dilation": None}, "dilation is None"),
        ({"law": "cubic"}, "law is 'cubic'; choose one of quadratic"),
        ({"law": "linear", "parameter": 2.0}, "has no parameter"),
        ({"law": "geometric", "parameter": 1.0}, "number > 1"),
        ({"law": "gaussian", "parameter": 0.0}, "number > 0"),
        ({"law": "geometric", "parameter": 1e300, "kernel_size": 5}, "overflows"),
        ({"kernel_size": 0}, "kernel_size is 0"),
        ({"kernel_size": (3, 3, 3, 3)}, "one to three"),
        ({"kernel_size": (3, 2.5)}, "kernel_size is"),
        ({"control": "shuffled"}, "control is 'shuffled'"),
        ({"normalize": "geomean"}, "floor > 0"),
        ({"normalize": "max"}, "normalize is 'max'"),
        ({"dilation": (1, 1, 1)}, "differ in length"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        tap_costs(**{"kernel_size": 3, **arguments})
