"""What a person sees of a prior: its text and its picture."""

import io

import pytest
import torch

from convprior.filters import FilterPrior
from convprior.filters.prior.text import neighbor_correlations

PRIORS = [
    FilterPrior.locality(3),
    FilterPrior.correlated((7, 7), "exponential", 2.0),
    FilterPrior.mean_pool((1, 5)),
    FilterPrior.locality((4,)),
    FilterPrior.correlated((2, 3, 3)),
    FilterPrior.independent(1),
    FilterPrior(torch.ones(1, 2), torch.tensor([[1.0, -0.5], [-0.5, 1.0]])),
]


def test_text_of_a_prior():
    prior = FilterPrior.correlated(3, "exponential", 2.0).scaled(torch.tensor([[1.0, 2, 1]] * 3))
    assert str(prior).splitlines()[1:] == [
        "  variance        0.5        2      0.5",
        "                  0.5        2      0.5",
        "                  0.5        2      0.5",
        "  neighbors  mean correlation 0.6065 along height, 0.6065 along width",
        f"  rank       9 of 9, condition {prior.condition:.4g}",
    ]
    assert str(FilterPrior.independent((2,))).splitlines()[1:] == [
        "  variance          1        1",
        "  rank       2 of 2, condition 1",
    ]
    assert "rank 1 of 4" in str(FilterPrior.mean_pool(2))


def test_neighbor_correlations_follow_the_axes():
    rows = FilterPrior.correlated((3,), "exponential", 1.0)
    columns = FilterPrior.correlated((4,), "exponential", 3.0)
    both = FilterPrior.separable(rows, columns)
    assert neighbor_correlations(both) == pytest.approx([torch.e**-1, torch.e ** (-1 / 3)])
    assert len(neighbor_correlations(FilterPrior.locality((1, 3)))) == 1


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_the_chart_shows_every_variance_and_correlation(prior):
    whole = prior.chart().to_dict()
    variances, correlations = (_data(whole, part) for part in whole["hconcat"])
    shown = [row["variance"] for row in variances]
    assert shown == prior.variance.flatten().tolist()
    assert len({(row["row"], row["column"]) for row in variances}) == len(shown)
    shown = [row["correlation"] for row in correlations]
    assert shown == prior.correlation.flatten().tolist()


@pytest.mark.parametrize("prior", PRIORS[::3], ids=repr)
def test_the_chart_draws(prior):
    buffer = io.StringIO()
    prior.chart().save(buffer, format="svg")
    svg = buffer.getvalue()
    assert svg.startswith("<svg")
    assert f"Filter prior, {'x'.join(map(str, prior.kernel_size))} taps" in svg


def test_the_title_is_short():
    smooth = FilterPrior.correlated(3, "matern32", 1.0)
    prior = smooth.scaled(FilterPrior.locality(3)).shrink(0.1, smooth * smooth)
    title = prior.chart().to_dict()["title"]
    assert title["text"] == "Filter prior, 3x3 taps"
    assert len(title["subtitle"]) <= 80
    assert title["subtitle"].endswith(" ...")
    title = FilterPrior.mean_pool(2).chart().to_dict()["title"]
    assert title["text"] == "Filter prior, 2x2 taps, singular: rank 1 of 4"
    assert title["subtitle"] == "mean_pool(kernel_size=(2, 2))"


def _data(whole, part):
    data = part.get("data") or part["layer"][0]["data"]
    return whole["datasets"][data["name"]]
