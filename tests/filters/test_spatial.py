"""Spatial correlation against loops and known fields, over batches, and its length scale."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from convprior.errors import InputError
from convprior.filters import (
    SpatialCorrelation,
    correlation_by_distance,
    fit_lengthscale,
    spatial_correlation,
    tap_correlation,
)
from convprior.filters.cohesion.reference import reference_spatial_covariance


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(axes=st.integers(1, 3), center=st.booleans(), data=st.data())
def test_against_loops(axes, center, data):
    most = {1: 5, 2: 3, 3: 2}[axes]
    kernel = [data.draw(st.integers(1, most)) for _ in range(axes)]
    dilation = [data.draw(st.integers(1, 2)) for _ in range(axes)]
    sizes = [
        (k - 1) * d + 1 + data.draw(st.integers(0, 2))
        for k, d in zip(kernel, dilation, strict=True)
    ]
    shape = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), *sizes)
    maps = noise(*shape, seed=data.draw(st.integers(0, 99))) + data.draw(st.floats(-3, 3))
    found = SpatialCorrelation(kernel, dilation).update(maps).covariance(center)
    expected = reference_spatial_covariance(maps, kernel, dilation, center)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_symmetric_even_and_stationary():
    found = spatial_correlation(noise(4, 2, 9, 9), 3)
    assert torch.equal(found, found.T)
    assert torch.equal(found, found.flip(0, 1))  # d and -d
    assert torch.equal(found.diagonal(), torch.ones(9, dtype=torch.float64))
    blocks = found.view(3, 3, 3, 3)
    assert torch.equal(blocks[:2, :2, :2, :2], blocks[1:, 1:, 1:, 1:])
    assert blocks[0, 0, 1, 1] != blocks[0, 1, 1, 0]  # the diagonals are two directions


@pytest.mark.parametrize("a", [0.3, 0.9])
def test_autoregressive_field(a):
    # A separable AR(1) field of unit variance has correlation a^|dy| * a^|dx|.
    field = noise(300, 1, 40, 40)
    for axis in (2, 3):
        rows = list(field.unbind(axis))
        for i in range(1, len(rows)):
            rows[i] = a * rows[i - 1] + math.sqrt(1 - a * a) * rows[i]
        field = torch.stack(rows, axis)
    found = spatial_correlation(field, 3, center=False)
    one = a ** (torch.arange(3)[:, None] - torch.arange(3)).abs().double()
    # About 300 * 1600 * (1-a)^2/(1+a)^2 independent values, four standard errors.
    error = 4 / math.sqrt(300 * 1600) * (1 + a) / (1 - a)
    torch.testing.assert_close(found, torch.kron(one, one), atol=error, rtol=0)


@pytest.mark.parametrize("dilation", [1, 2])
def test_smoothed_noise(dilation):
    # White noise under a filter g has covariance g * g at each displacement, exactly.
    taps = noise(1, 1, 3, 3, seed=1)
    field = nn.functional.conv2d(noise(200, 1, 52, 52), taps)
    padded = nn.functional.pad(taps, [4] * 4)
    auto = nn.functional.conv2d(padded, taps)[0, 0]
    auto = auto / auto.max()
    middle = auto.shape[0] // 2
    found = SpatialCorrelation(3, dilation).update(field).by_displacement()
    # Of at most 25 correlated neighbors a value's worth is 1/25; four standard errors.
    error = 4 * 5 / math.sqrt(200 * 2500)
    for (y, x), value in found.items():
        expected = (
            float(auto[middle + dilation * y, middle + dilation * x])
            if max(abs(dilation * y), abs(dilation * x)) <= middle
            else 0.0
        )
        assert abs(value - expected) < error


def test_batches_and_order_change_rounding_only():
    maps = noise(12, 3, 8, 7) * torch.tensor([1e-3, 1.0, 50.0]).view(3, 1, 1) + 30.0
    whole = SpatialCorrelation(3).update(maps)
    parts, turned = SpatialCorrelation(3), SpatialCorrelation(3)
    for part in (maps[:1], maps[1:8], maps[8:]):
        parts.update(part)
    for part in (maps[8:], maps[1:8].flip(0), maps[:1]):
        turned.update(part)
    assert whole.maps == parts.maps == turned.maps == 12
    for center in (True, False):
        expected = whole.covariance(center)
        for other in (parts, turned):
            torch.testing.assert_close(other.covariance(center), expected, rtol=1e-10, atol=0)


def test_maps_of_several_sizes_count_by_their_pairs():
    small, large = noise(2, 1, 4, 5), noise(1, 1, 9, 6, seed=1)
    found = SpatialCorrelation(2).update(small).update(large).covariance(center=False)
    parts = [(m, SpatialCorrelation(2).update(m).covariance(center=False)) for m in (small, large)]
    pairs = [len(m) * m.shape[2] * (m.shape[3] - 1) for m, _ in parts]
    expected = sum(n * c[0, 1] for n, (_, c) in zip(pairs, parts, strict=True)) / sum(pairs)
    torch.testing.assert_close(found[0, 1], expected)


def test_a_large_batch_is_taken_in_pieces():
    maps = noise(80, 4, 48, 48).float()
    found = spatial_correlation(maps, 3)
    direct = (maps[..., 1:] * maps[..., :-1]).double().mean() / maps.double().square().mean()
    assert float(found[0, 1]) == pytest.approx(float(direct), abs=1e-4)


def test_a_large_mean_does_not_drown_the_variance():
    maps = noise(6, 2, 10, 10)
    expected = spatial_correlation(maps, 3)
    torch.testing.assert_close(spatial_correlation(maps + 1e6, 3), expected, atol=1e-8, rtol=0)
    assert float(spatial_correlation(maps + 1e6, 3, center=False).min()) > 0.999999


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.uint8])
def test_any_type_is_summed_in_float64(dtype):
    maps = (noise(4, 2, 9, 9) * 40 + 120).to(dtype)
    torch.testing.assert_close(spatial_correlation(maps, 3), spatial_correlation(maps.double(), 3))


def test_layout_and_graph_do_not_matter():
    maps = noise(4, 6, 9, 9)
    expected = spatial_correlation(maps, 3)
    found = spatial_correlation(maps.to(memory_format=torch.channels_last).requires_grad_(), 3)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected)


def test_wrong_maps():
    seen = SpatialCorrelation(3)
    with pytest.raises(InputError, match="no maps were added"):
        seen.correlation()
    for maps, message in (
        (torch.zeros(3, 3), "a window of 2 axes"),
        (torch.zeros(0, 1, 5, 5), "none of them 0"),
        (torch.zeros(1, 1, 5, 5, dtype=torch.complex64), "needs real"),
        (torch.zeros(1, 1, 2, 5), "smaller than the window"),
        (torch.full((1, 1, 5, 5), math.inf), "not finite"),
    ):
        with pytest.raises(InputError, match=message):
            seen.update(maps)
    assert seen.maps == 0
    seen.update(noise(2, 3, 5, 5))
    before = seen.correlation()
    for maps in (noise(1, 2, 5, 5), torch.full((1, 3, 5, 5), math.nan)):
        with pytest.raises(InputError):
            seen.update(maps)
    assert torch.equal(seen.correlation(), before)
    with pytest.raises(InputError, match="are constant"):
        spatial_correlation(torch.full((2, 2, 5, 5), 0.1), 3)
    with pytest.raises(InputError, match="all 0"):
        spatial_correlation(torch.zeros(2, 2, 5, 5), 3, center=False)
    with pytest.raises(InputError, match="differ in length"):
        SpatialCorrelation(3, (1, 1, 1))


def test_constant_maps_are_alike_as_raw_moments():
    found = spatial_correlation(torch.full((2, 2, 5, 5), 0.1), 3, center=False)
    torch.testing.assert_close(found, torch.ones(9, 9, dtype=torch.float64))


@given(
    scale=st.floats(0.1, 200),
    family=st.sampled_from(["exponential", "squared_exponential", "matern32"]),
    size=st.sampled_from([3, 5, (1, 7), (2, 3), (5,), (2, 2, 2)]),
)
def test_length_scales_come_back(scale, family, size):
    fit = fit_lengthscale(tap_correlation(size, family, scale), size, family)
    assert fit.lengthscale == pytest.approx(scale, rel=1e-5)
    assert fit.error < 1e-8


def test_limits_of_the_length_scale():
    for family in ("exponential", "squared_exponential"):
        assert fit_lengthscale(torch.eye(9), 3, family).lengthscale == 0
        assert fit_lengthscale(torch.ones(9, 9), 3, family).lengthscale == math.inf
        opposed = 1.5 * torch.eye(9) - 0.5
        assert fit_lengthscale(opposed, 3, family).lengthscale == 0
    with pytest.raises(InputError, match="one tap"):
        fit_lengthscale(torch.ones(1, 1), 1)
    with pytest.raises(InputError, match=r"needs \(9, 9\)"):
        fit_lengthscale(torch.ones(4, 4), 3)
    with pytest.raises(InputError, match="family is 'gauss'"):
        fit_lengthscale(torch.eye(9), 3, "gauss")


def test_the_fit_is_the_least_square():
    found = spatial_correlation(nn.functional.avg_pool2d(noise(50, 1, 20, 20), 2, stride=1), 3)
    fit = fit_lengthscale(found, 3)

    def left(scale):
        model = tap_correlation(3, "exponential", scale)
        return [
            float(found.view(3, 3, 3, 3)[p] - model.view(3, 3, 3, 3)[p])
            for dy in range(3)
            for dx in range(-2, 3)
            if (dy, dx) > (0, 0)
            for p in [(0, max(0, -dx), dy, max(0, dx))]
        ]

    def error(scale):
        return math.sqrt(sum(r * r for r in left(scale)) / 12)

    assert fit.error == pytest.approx(error(fit.lengthscale), rel=1e-9)
    assert error(fit.lengthscale) < min(
        error(0.99 * fit.lengthscale), error(1.01 * fit.lengthscale)
    )


def test_correlation_by_distance():
    found = correlation_by_distance(tap_correlation((2, 3), "exponential", 1.0), (2, 3))
    assert [d for d, _ in found] == pytest.approx([0, 1, math.sqrt(2), 2, math.sqrt(5)])
    assert [c for _, c in found] == pytest.approx([math.exp(-d) for d, _ in found])
