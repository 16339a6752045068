import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convprior.errors import InputError
from convprior.lab.data import DataRecipe
from convprior.lab.data.splits import choose, hold_out_test

CLASSES = ("ant", "bee", "cat")


@st.composite
def labels_and_n(draw):
    n = draw(st.integers(2, 6))
    per_class = [draw(st.integers(3 * n, 3 * n + 5)) for _ in CLASSES]
    labels = [label for label, count in enumerate(per_class) for _ in range(count)]
    return torch.tensor(draw(st.permutations(labels))), n


def test_consecutive_is_the_rule_of_the_deic_benchmark():
    # Fifteen images a class, in turn: image i has label i % 3 and is number i // 3 of its class.
    labels = torch.arange(45) % 3
    number = torch.arange(45) // 3
    for split in range(3):
        fit, validation = choose(labels, CLASSES, DataRecipe(per_class=5, split=split))
        first = 5 * split
        wanted = torch.nonzero((number >= first) & (number < first + 3)).flatten()
        assert torch.equal(fit, wanted)
        wanted = torch.nonzero((number >= first + 3) & (number < first + 5)).flatten()
        assert torch.equal(validation, wanted)


def test_fifty_a_class_gives_thirty_and_twenty():
    labels = torch.arange(200) % 2
    fit, validation = choose(labels, ("a", "b"), DataRecipe(per_class=50, split=1))
    assert torch.equal(fit, torch.arange(100, 160))
    assert torch.equal(validation, torch.arange(160, 200))


@given(labels_and_n(), st.sampled_from(["consecutive", "random"]), st.floats(0.2, 0.8))
def test_splits_are_exact_and_disjoint(case, rule, validation):
    labels, n = case
    seen = []
    for split in range(3):
        recipe = DataRecipe(per_class=n, split=split, rule=rule, validation=validation)
        fit, held = choose(labels, CLASSES, recipe)
        kept = round(n * (1 - validation))
        assert torch.bincount(labels[fit], minlength=3).tolist() == [kept] * 3
        assert torch.bincount(labels[held], minlength=3).tolist() == [n - kept] * 3
        assert torch.equal(fit.sort().values, fit)
        assert torch.equal(held.sort().values, held)
        seen += fit.tolist() + held.tolist()
    assert len(set(seen)) == len(seen)


def test_random_differs_from_file_order_and_repeats():
    labels = torch.arange(300) % 3
    chosen = [
        choose(labels, CLASSES, DataRecipe(per_class=20, rule=rule))
        for rule in ("random", "random", "consecutive")
    ]
    assert torch.equal(chosen[0][0], chosen[1][0])
    assert not torch.equal(chosen[0][0], chosen[2][0])


@given(st.lists(st.integers(2, 30), min_size=1, max_size=5), st.floats(0.1, 0.9))
def test_without_per_class_every_image_is_used_once(counts, share):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    classes = tuple(str(label) for label in range(len(counts)))
    fit, held = choose(labels, classes, DataRecipe(validation=share))
    assert sorted(fit.tolist() + held.tolist()) == list(range(sum(counts)))
    wanted = [count - round(count * (1 - share)) for count in counts]
    assert torch.bincount(labels[held], minlength=len(counts)).tolist() == wanted


@given(st.lists(st.integers(2, 60), min_size=1, max_size=5))
def test_the_held_out_test_set_is_a_fifth_of_each_class(counts):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    classes = tuple(str(label) for label in range(len(counts)))
    train, test = hold_out_test(labels, classes)
    assert sorted(train.tolist() + test.tolist()) == list(range(sum(counts)))
    wanted = [max(1, round(count / 5)) for count in counts]
    assert torch.bincount(labels[test], minlength=len(counts)).tolist() == wanted
    again = hold_out_test(labels, classes)
    assert torch.equal(again[1], test)


def test_a_class_with_too_few_images_is_named_with_count_and_need():
    labels = torch.tensor([0] * 10 + [1] * 7 + [2] * 10)
    with pytest.raises(InputError, match=r"'bee' has 7 .* split = 1 with per_class = 4 needs 8"):
        choose(labels, CLASSES, DataRecipe(per_class=4, split=1))


def test_a_class_too_small_to_validate_or_test_on_is_named():
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    with pytest.raises(InputError, match="'bee' has 1 training images"):
        choose(labels, CLASSES, DataRecipe(evaluate="validation"))
    with pytest.raises(InputError, match="'bee' has 1 images"):
        hold_out_test(labels, CLASSES)
