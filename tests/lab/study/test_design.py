"""What a study crosses, how cells are named, what a range holds."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convprior.errors import InputError
from convprior.lab.study import Range, Slot, parse_study
from convprior.lab.study.design import make_cell, with_values
from convprior.lab.study.keys import leaves
from convprior.lab.study.tune import read_tunings
from convprior.lab.train import Recipe, as_dict, recipe_key


def crossed(arms=("a", "b"), models=("plain_cnn", "wrn10_1"), splits=(0, 2), seeds=(0, 1, 5)):
    return parse_study(
        {
            "name": "crossed",
            "base": {"data": {"per_class": 5}},
            "arms": {name: {"optimizer.lr": 0.1 * (1 + i)} for i, name in enumerate(arms)},
            "models": list(models),
            "data": ["digits", "mnist"],
            "splits": list(splits),
            "seeds": list(seeds),
        }
    )


def test_every_combination_is_one_cell_and_pairs_are_neighbors():
    study = crossed()
    cells = study.plan({slot: {} for slot in study.slots()})
    combinations = {(*cell.slot, cell.split, cell.seed) for cell in cells}
    everything = itertools.product("ab", ["digits", "mnist"], study.models, (0, 2), (0, 1, 5))
    assert combinations == {(a, d, m.label, split, seed) for a, d, m, split, seed in everything}
    assert len({cell.key for cell in cells}) == len(cells) == 2 * 2 * 2 * 2 * 3
    for first, second in zip(cells[::2], cells[1::2], strict=True):
        assert first.slot._replace(arm="b") == second.slot
    for cell in cells:
        assert cell.key == recipe_key(cell.recipe)
        assert (cell.recipe.data.split, cell.recipe.seed) == (cell.split, cell.seed)
        assert cell.recipe.data.evaluate == "test"


def test_arms_share_everything_but_what_they_set():
    study = crossed()
    for data, model in itertools.product(study.data, study.models):
        slots = [Slot(arm, data.label, model.label) for arm in "ab"]
        first, second = (study.recipe(slot, {}, 0, 0) for slot in slots)
        assert replace(first, optimizer=second.optimizer) == second


def test_slots_without_values_are_left_out():
    study = crossed()
    one = next(study.slots())
    assert {cell.slot for cell in study.plan({one: {}})} == {one}


@given(st.sampled_from([key for key in leaves() if key.startswith("optimizer.")]))
def test_equal_recipes_share_a_cell_and_others_do_not(key):
    slot = Slot("a", "digits", "plain_cnn")
    value = {
        "optimizer.name": "adamw",
        "optimizer.schedule": "constant",
        "optimizer.nesterov": False,
    }
    changed = make_cell(slot, with_values(Recipe(), {key: value.get(key, 0.25)}))
    assert changed.key != make_cell(slot, Recipe()).key
    assert make_cell(slot._replace(arm="b"), changed.recipe).key == changed.key


def test_with_values_sets_only_what_it_is_told():
    changed = as_dict(with_values(Recipe(), {"optimizer.lr": 0.5, "seed": 3}))
    expected = as_dict(Recipe())
    expected["optimizer"]["lr"], expected["seed"] = 0.5, 3
    assert changed == expected


@given(st.floats(1e-6, 1), st.floats(1.5, 1e5), st.integers(2, 12), st.booleans())
def test_a_grid_is_even_and_holds_its_ends(low, factor, points, log):
    grid = Range(low=low, high=low * factor, log=log, points=points).grid()
    assert len(grid) == points
    assert grid[0] == pytest.approx(low, rel=1e-3)
    assert grid[-1] == pytest.approx(low * factor, rel=1e-3)
    steps = [b / a if log else b - a for a, b in itertools.pairwise(grid)]
    assert max(steps) == pytest.approx(min(steps), rel=0.05, abs=2e-3 * low * factor)


def test_a_grid_between_whole_numbers_is_of_whole_numbers():
    grid = Range(low=8, high=128, log=True, points=5).grid()
    assert grid == (8, 16, 32, 64, 128)
    assert all(isinstance(value, int) for value in grid)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data": [{"source": "digits", "evaluate": "validation"}]}, "data.evaluate cannot be set"),
        ({"data": [{"source": "digits", "per_class": 5, "split": 1}]}, "data.split cannot be set"),
        ({"arms": {"a": {"data.split": {"x": 1}}}}, "arms.a.data.split cannot be set"),
        (
            {"tune": {"space": {"data.evaluate": {"values": ["validation"]}}}},
            "data.evaluate cannot",
        ),
        ({"tune": {"space": {"data.source": {"values": ["digits"]}}}}, "data.source cannot be tun"),
        ({"tune": {"space": {"budget.examples": {"values": [100]}}}}, "arms cost the same"),
        ({"tune": {"space": {"data.split": {"values": [0]}}}}, "data.split cannot be set"),
    ],
)
def test_neither_data_sets_nor_tuning_decide_which_images_judge(change, sentence):
    with pytest.raises(InputError, match=sentence):
        parse_study({"name": "leak", "arms": {"a": {}}, **change})


@pytest.mark.parametrize("name", ["locality", "locality-digits"])
def test_cells_of_published_studies_keep_their_keys(name):
    """Slots that came later change the key of no recipe that leaves them alone."""
    folder = Path(__file__).parents[3] / "results" / name
    study = parse_study(json.loads((folder / "study.json").read_text())["study"])
    tuned = {tuning.slot: tuning.values for tuning in read_tunings(folder)}
    values = {slot: tuned.get(study.tuner(slot), {}) for slot in study.slots()}
    rows = json.loads((folder / "results.json").read_text())["rows"]
    assert {cell.key for cell in study.plan(values)} == {row["key"] for row in rows}
