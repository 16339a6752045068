"""Ties, constant features, all right or all wrong, few images, NaN; and the words for them."""

import itertools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convprior.diagnose.diversity.deciles import deciles, lowest_against_chance
from convprior.diagnose.diversity.layer import Settings, describe
from convprior.diagnose.diversity.result import FeatureDiversity
from convprior.diagnose.diversity.spectrum import StreamingCovariance, rank_of
from convprior.errors import InputError

NAN = math.nan


def diversity(variance, correct, loss=None, classes=4, spectrum=(1.0, 3.0)):
    v, right = torch.tensor(variance, dtype=torch.float32), torch.tensor(correct).bool()
    ce = torch.linspace(2, 1, len(v)) if loss is None else torch.tensor(loss)
    layer = describe(
        "layer4", "output", (8, 2, 2), v, torch.tensor(spectrum), ce, right, classes, Settings()
    )
    return FeatureDiversity((layer,), ce, right, classes)


def hundred(accuracy_of_tenths):
    """A hundred images; a tenth of them has each of these numbers of right ones among its ten."""
    right = [at < k for k in accuracy_of_tenths for at in range(10)]
    return diversity([float(i) for i in range(100)], right)


def test_more_variance_more_right():
    found = hundred([2, 3, 5, 6, 7, 8, 9, 9, 10, 10])
    assert found.layers[0].lowest.p > 0.05
    assert "classified right more often (AUROC 0.8" in found.conclusion
    assert "Bias Loss favors easy ones" in found.conclusion
    assert "not shown to do better than chance (20.0 % right, 25.0 % by" in found.conclusion
    assert found.layers[0].lowest.kept == pytest.approx((0.2 - 0.25) / (0.69 - 0.25))


def test_more_variance_less_right():
    found = hundred([10, 10, 9, 9, 8, 7, 6, 5, 3, 2])
    assert "less often (AUROC 0.1" in found.conclusion
    assert "far from random (100.0 % right" in found.conclusion


def test_better_than_chance_but_far_worse():
    found = hundred([6] + [10] * 9)
    assert found.layers[0].lowest.kept == pytest.approx(0.35 / 0.71)
    assert "far worse than all (60.0 % right, 25.0 % by chance, 96.0 % of all)" in found.conclusion


def test_variance_that_says_nothing():
    found = hundred([5] * 10)
    assert found.layers[0].auroc.value == pytest.approx(0.5, abs=0.05)
    assert "not shown to tell right answers from wrong ones" in found.conclusion


def test_all_is_chance():
    found = hundred([2, 3, 2, 3, 2, 3, 2, 3, 2, 3])
    assert "and neither are all images" in found.conclusion
    assert found.layers[0].lowest.kept is None or found.accuracy > 0.25


@pytest.mark.parametrize(("right", "words"), [(True, "right"), (False, "wrong")])
def test_all_answers_alike(right, words):
    found = diversity([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [right] * 12)
    layer = found.layers[0]
    assert layer.auroc is None
    assert "no AUROC" in layer.note
    assert f"All answers are {words}, so variance" in found.conclusion
    assert (layer.weights.on_wrong if right else layer.weights.on_correct) is None
    assert layer.spearman is not None
    assert found.table()


def test_constant_features():
    found = diversity([0.5] * 30, [True, False, False] * 10, spectrum=(0.0, 0.0))
    layer = found.layers[0]
    assert (layer.rank, layer.spearman, layer.lowest) == (None, None, None)
    assert layer.auroc.value == 0.5
    assert (layer.weights.mean, sum(layer.weights.counts)) == (1.0, 0)
    assert [group.images for group in layer.deciles] == [30]
    assert "the same" in layer.note
    assert "-" in found.table()


def test_a_shared_lowest_variance_is_one_group():
    found = diversity([0.0] * 40 + [float(i) for i in range(1, 61)], [False, True] * 50)
    groups = found.layers[0].deciles
    assert sum(group.images for group in groups) == 100
    assert (groups[0].images, groups[0].accuracy) == (40, 0.5)
    assert found.layers[0].lowest.images == 40


@pytest.mark.parametrize("count", range(1, 12))
def test_few_images(count):
    found = diversity([float(i) for i in range(count)], [i % 2 == 0 for i in range(count)])
    layer = found.layers[0]
    assert sum(group.images for group in layer.deciles) == count
    assert layer.lowest is None if count == 1 else layer.lowest.images >= 1
    assert found.table()
    assert found.conclusion
    json.dumps(found.as_dict(), allow_nan=False)


def test_nothing_finite():
    found = diversity([NAN] * 12, [True] * 12, spectrum=())
    layer = found.layers[0]
    assert (layer.images, layer.left_out, layer.weights, layer.deciles) == (0, 12, None, ())
    assert "nothing can be said" in found.conclusion
    assert "not finite" in found.table()
    with pytest.raises(InputError, match="nothing to draw"):
        found.chart()
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_loss_that_is_not_finite_does_not_count():
    found = diversity([1.0, 2, 3, 4, 5], [True] * 5, loss=[1.0, math.inf, 2.0, NAN, 0.0])
    assert found.layers[0].images == 3
    assert found.loss is None
    assert "loss -" in found.table()
    json.dumps(found.as_dict(), allow_nan=False)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.randoms(use_true_random=False))
def test_deciles_do_not_depend_on_the_order(values, random):
    right = [random.random() < 0.5 for _ in values]
    shuffled = list(range(len(values)))
    random.shuffle(shuffled)

    def of(order):
        v = torch.tensor([float(values[i]) for i in order])
        ce = torch.ones(len(order))
        return deciles(v, torch.tensor([right[i] for i in order]), ce)

    groups = of(range(len(values)))
    assert groups == of(shuffled)
    assert sum(group.images for group in groups) == len(values)
    numbers = [group.number for group in groups]
    assert numbers == sorted(set(numbers))
    assert all(a.most < b.least for a, b in itertools.pairwise(groups))
    lowest = lowest_against_chance(groups, 5)
    assert (lowest is None) == (len(set(values)) == 1 or len(groups) < 2)


@given(
    st.integers(1, 5),
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.sampled_from([0.0, 1e6]),
)
def test_streaming_covariance_is_the_covariance(width, sizes, shift):
    generator = torch.Generator().manual_seed(width + sum(sizes))
    batches = [torch.randn(n, width, generator=generator).double() + shift for n in sizes]
    sums = StreamingCovariance()
    for batch in batches:
        sums.add(batch)
    joint = torch.cat(batches)
    if len(joint) < 2:
        assert rank_of(sums.spectrum()) is None
        return
    expected = torch.linalg.eigvalsh(torch.cov(joint.T, correction=0).reshape(width, width))
    torch.testing.assert_close(sums.spectrum(), expected.clamp(min=0), rtol=1e-6, atol=1e-8)


def test_ranks_of_known_spectra():
    assert rank_of(torch.zeros(4)) is None
    one = rank_of(torch.tensor([0.0, 0.0, 3.0]))
    assert (one.effective, one.participation) == (1.0, 1.0)
    four = rank_of(torch.full((4,), 0.3, dtype=torch.float64))
    assert (four.effective, four.participation) == (pytest.approx(4), pytest.approx(4))
    uneven = rank_of(torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert uneven.effective == pytest.approx(math.exp(0.25 * math.log(4) + 0.75 * math.log(4 / 3)))
    assert uneven.participation == pytest.approx(16 / 10)


def test_constant_vectors_have_no_rank():
    sums = StreamingCovariance()
    for _ in range(3):
        sums.add(torch.full((7, 4), 0.1))
    assert rank_of(sums.spectrum()) is None


def test_csv_has_a_column_for_each_number():
    text = hundred([2, 3, 5, 6, 7, 8, 9, 9, 10, 10]).to_csv(target="net")
    head, line = text.splitlines()
    row = dict(zip(head.split(","), line.split(","), strict=True))
    assert row["target"] == "net"
    assert (row["shape"], row["accuracy"]) == ("8x2x2", "0.69")
    assert 0.8 < float(row["auroc"]) < 0.9
    assert row["lowest_accuracy"] == "0.2"


def test_the_chart_is_drawn_for_one_layer_and_several():
    one = hundred([2, 3, 5, 6, 7, 8, 9, 9, 10, 10])
    assert one.chart().to_dict()
    several = FeatureDiversity(one.layers * 2, one.cross_entropy, one.correct, 4)
    assert len(several.chart().to_dict()["vconcat"]) == 2
    alike = diversity([0.5] * 30, [True] * 30)
    assert alike.chart().to_dict()
