"""Ties, constant features, all right or all wrong, few images, NaN; and the words for them."""

import itertools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convprior.diagnose.diversity import spectrum
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
    lowest = lowest_against_chance(groups, 0.2)
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


def test_wide_vectors_give_the_same_spectrum_by_their_gram_matrix():
    rows = torch.randn(30, 20, generator=torch.Generator().manual_seed(0)).double() + 5
    rows[3, 2] = NAN
    for count in (1, 2, 9, 20, 21):
        sums = StreamingCovariance()
        for part in rows[:count].split(4):
            sums.add(part)
        finite = rows[:count][rows[:count].isfinite().all(1)]
        expected = torch.linalg.eigvalsh(torch.cov(finite.T, correction=0).reshape(20, 20))
        torch.testing.assert_close(sums.spectrum(), expected.clamp(min=0), rtol=1e-8, atol=1e-10)


def test_very_wide_vectors_are_capped(monkeypatch):
    monkeypatch.setattr(spectrum, "WIDEST", 8)
    sums = StreamingCovariance()
    rows = torch.randn(20, 9, generator=torch.Generator().manual_seed(0))
    for part in rows.split(3):
        sums.add(part)
    assert sums.skipped == 12
    expected = torch.linalg.eigvalsh(torch.cov(rows[:8].double().T, correction=0))
    torch.testing.assert_close(sums.spectrum(), expected.clamp(min=0), rtol=1e-8, atol=1e-10)


def test_one_kind_wholly_above_the_other():
    found = diversity([float(i) for i in range(40)], [False] * 10 + [True] * 30)
    assert "classified right more often (AUROC 1.00 [0." in found.conclusion
    assert "favors easy ones" in found.conclusion
    single = diversity([float(i) for i in range(40)], [False] + [True] * 39)
    assert "A single wrong answer is too few" in single.conclusion


def test_barely_above_chance_is_not_far_from_random():
    right = [i % 100 < 53 for i in range(40000)]
    found = diversity([float(i) for i in range(40000)], right, classes=2)
    assert found.layers[0].lowest.p < 0.05
    assert "only slightly better than chance, and so do all images (53.0 %" in found.conclusion


def test_chance_knows_the_classes_that_occur():
    labels = torch.tensor([0] * 90 + [1] * 10).repeat(10)
    v = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    ce, predictions = torch.linspace(2, 1, 1000), torch.zeros(1000, dtype=torch.int64)
    right = predictions == labels
    layer = describe(
        "l", "output", (8, 2, 2), v, torch.ones(3), ce, right, 10, Settings(), labels, predictions
    )
    assert layer.chance == layer.lowest.chance == pytest.approx(0.9)
    found = FeatureDiversity((layer,), ce, right, 10, Settings(), labels, predictions)
    assert found.chance == layer.chance
    assert "not shown to do better than chance, and neither are all" in found.conclusion


def test_ties_are_no_tenth_and_few_images_no_test():
    tied = diversity([0.0] * 600 + [float(i) for i in range(1, 401)], [True] * 999 + [False])
    assert "The 600 of 1,000 images with the least variance are far" in tied.conclusion
    assert "600 images of 1,000, as equal variances stay together" in tied.table()
    few = diversity([float(i) for i in range(20)], [True] * 20)
    assert "chance" not in few.conclusion
    assert "equal variances" not in few.table()
    assert "1 image, 4 classes" in diversity([1.0], [True]).table()


def test_sentences_are_of_the_images_that_count():
    v = [NAN] * 500 + [float(i) for i in range(500)]
    found = diversity(v, [True] * 500 + [False] * 500)
    assert "All answers that count are wrong" in found.conclusion
    assert "0.0 % of all" in found.conclusion
    assert "500 of 1,000 images left out" in found.conclusion


def test_losses_that_say_the_opposite():
    right = [i % 2 == 0 or i >= 900 for i in range(1000)]
    loss = [0.1 + 0.0005 * i if ok else 0.7 + 0.003 * i for i, ok in enumerate(right)]
    found = diversity([float(i) for i in range(1000)], right, loss)
    assert "more often" in found.conclusion
    assert "yet their loss is larger" in found.conclusion
    assert "favors" not in found.conclusion
