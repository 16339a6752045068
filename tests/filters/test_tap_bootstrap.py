"""The interval of a ratio: what is resampled, and how often it holds the truth."""

import math

import pytest
import torch
from torch import nn

from convprior.filters import tap_profile
from convprior.filters.bootstrap import bootstrap_sums, percentile_interval


def test_a_draw_is_the_sum_over_filters_taken_with_replacement():
    sums = torch.rand(7, 9, dtype=torch.float64)
    found = bootstrap_sums(sums, 50, torch.Generator().manual_seed(3))
    taken = torch.randint(7, (50, 7), generator=torch.Generator().manual_seed(3))
    for draw, filters in zip(found, taken.tolist(), strict=True):
        expected = sum(sums[filter_] for filter_ in filters)
        assert torch.allclose(draw, expected, rtol=1e-12)


def test_the_spread_over_draws_is_that_of_a_mean():
    # Var of a bootstrap sum = n * population variance of the filters' sums.
    sums = torch.rand(50, 1, dtype=torch.float64)
    drawn = bootstrap_sums(sums, 20_000, torch.Generator().manual_seed(0))
    assert float(drawn.mean()) == pytest.approx(float(sums.sum()), rel=0.005)
    expected = 50 * float(sums.var(correction=0))
    # A variance from 20,000 draws has a relative standard error of sqrt(2 / 20,000) = 1 %.
    assert float(drawn.var()) == pytest.approx(expected, rel=0.04)


def test_intervals_are_a_function_of_seed_name_and_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 20, 3), nn.Conv2d(20, 20, 3))
    first, again = tap_profile(model), tap_profile(model)
    assert first[1].intervals == again[1].intervals
    assert tap_profile(model, include="1")[0].intervals == first[1].intervals
    assert tap_profile(model, seed=1)[1].intervals != first[1].intervals
    state = torch.get_rng_state()
    tap_profile(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_confidence_widens_the_interval():
    torch.manual_seed(0)
    model = nn.Conv2d(8, 40, 3)
    (low, high), (lower, higher) = (
        tap_profile(model, confidence=level)[0].intervals["centre_edge"] for level in (0.5, 0.99)
    )
    assert lower < low < high < higher


def test_the_interval_holds_the_truth_and_one_over_single_weights_does_not():
    """Filters differ in scale and in how central they are, as in a network.

    With 80 filters the percentile interval covers at least 92 % (it is a little narrow at a
    finite number); over 1,000 networks the standard error is 0.9 points, so 4 of them are allowed.
    """
    networks, filters, channels, draws = 1000, 80, 16, 400
    generator = torch.Generator().manual_seed(5)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    # Weights of one filter and tap share a scale exp(z/2), so E[w^2] = e^(1/2) for both taps.
    def tap():
        scale = normal(networks, filters, 1).mul(0.5).exp()
        return scale * normal(networks, filters, channels)

    weights = torch.stack([tap(), tap()], dim=-1)
    truth = 1.0

    def covered(groups):
        hits = 0
        for sums in groups:
            center, outer = bootstrap_sums(sums, draws, generator).unbind(-1)
            low, high = percentile_interval((center / outer).sqrt(), 0.95)
            hits += low <= truth <= high
        return hits / len(groups)

    squares = weights.square()
    by_filter = covered(squares.sum(2))
    error = math.sqrt(0.95 * 0.05 / networks)
    assert 0.92 - 4 * error < by_filter < 0.95 + 4 * error
    by_weight = covered(squares.flatten(1, 2)[:100])
    assert by_weight < 0.8
