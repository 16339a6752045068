"""Rank statistics and shares against scipy, scikit-learn and plain loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from convprior.diagnose.ranks import auroc, mid_ranks, spearman
from convprior.diagnose.shares import above_chance, wilson

# Few different values make many ties.
VALUES = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=40)
PAIRS = st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 3)), min_size=1, max_size=40)


@given(VALUES)
def test_ties_share_the_mean_of_their_ranks(values):
    expected = stats.rankdata(values)
    assert mid_ranks(torch.tensor(values)).tolist() == expected.tolist()


@given(PAIRS)
def test_spearman_is_scipys(pairs):
    x, y = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    found = spearman(x, y)
    if len(set(x.tolist())) < 2 or len(set(y.tolist())) < 2:
        assert found is None
        return
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    if found.low is not None:
        assert -1 < found.low < found.value < found.high < 1
    else:
        assert len(pairs) <= 3 or abs(found.value) > 1 - 1e-12


@given(PAIRS)
def test_the_area_is_scikit_learns(pairs):
    values = torch.tensor([float(value) for value, _ in pairs])
    positive = torch.tensor([kind > 1 for _, kind in pairs])
    found = auroc(values, positive)
    if bool(positive.all()) or not bool(positive.any()):
        assert found is None
        return
    assert found.value == pytest.approx(roc_auc_score(positive, values), abs=1e-12)
    # Order alone counts: an increasing function changes nothing, the negative mirrors.
    grown = auroc(values.double().exp(), positive)
    assert grown == found
    turned = auroc(-values, positive)
    assert turned.value == pytest.approx(1 - found.value, abs=1e-12)
    if found.low is not None and found.high > found.low:
        assert found.low <= found.value <= found.high
        assert turned.low == pytest.approx(1 - found.high, abs=1e-9)


def test_delongs_variance_by_its_definition():
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 12, (60,), generator=generator).double()
    positive = torch.rand(60, generator=generator) < 0.4
    few, many = values[positive], values[~positive]
    wins = torch.tensor([[float(a > b) + 0.5 * float(a == b) for b in many] for a in few])
    area = float(wins.mean())
    variance = wins.mean(1).var() / len(few) + wins.mean(0).var() / len(many)
    half = 1.959964 * math.sqrt(variance) / (area * (1 - area))
    ends = [1 / (1 + math.exp(-(math.log(area / (1 - area)) + s * half))) for s in (-1, 1)]
    found = auroc(values, positive)
    assert [found.low, found.high] == pytest.approx(ends, abs=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1.2])
def test_intervals_hold_the_truth_as_often_as_they_say(shift):
    """Of 400 intervals, 95 % within four standard errors of that share (1.1 points)."""
    generator = torch.Generator().manual_seed(1)
    truth = 0.5 * (1 + math.erf(shift / 2))
    rho = shift / 2
    hits = {"auroc": 0, "spearman": 0}
    for _ in range(400):
        positive = torch.arange(120) < 40
        x = torch.randn(120, generator=generator)
        area = auroc(x + shift * positive, positive)
        hits["auroc"] += area.low <= truth <= area.high
        y = rho * x + math.sqrt(1 - rho * rho) * torch.randn(120, generator=generator)
        along = spearman(x, y)
        hits["spearman"] += along.low <= 6 / math.pi * math.asin(rho / 2) <= along.high
    for count in hits.values():
        assert 0.906 <= count / 400 <= 0.994


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_is_scipys(counts):
    expected = stats.binomtest(*counts).proportion_ci(method="wilson")
    assert wilson(*counts) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(
    st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.integers(2, 1000),
)
def test_the_test_against_chance_is_the_exact_binomial_one(counts, classes):
    expected = stats.binomtest(*counts, 1 / classes, alternative="greater").pvalue
    assert above_chance(*counts, 1 / classes) == pytest.approx(expected, rel=1e-8, abs=1e-300)


@pytest.mark.parametrize(("few", "many"), [(2, 3), (3, 3), (3, 5), (4, 4), (2, 40), (500, 500)])
def test_separation_is_shown_where_the_exact_test_shows_it(few, many):
    """Of all orders one has every positive on top: p = 2 / binomial."""
    found = auroc(torch.arange(few + many), torch.arange(few + many) >= many)
    assert (found.value, found.high) == (1.0, 1.0)
    assert (found.low > 0.5) == (2 / math.comb(few + many, few) < 0.05)


def test_chance_of_one_is_never_beaten():
    assert above_chance(3, 3, 1.0) == 1.0
