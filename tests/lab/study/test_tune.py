"""Tuning, with cells that a formula fills in: alike for all arms, on validation images only."""

import json

import pytest

from convprior._files import write_json
from convprior.errors import InputError, RunError
from convprior.lab.study import Slot, parse_study, read_tunings
from convprior.lab.study.run import chosen_values, outcome
from convprior.lab.study.store import Store, write_failure
from convprior.lab.study.tune import tune

GRID = {"values": [1e-5, 1e-4, 1e-3, 1e-2]}
DECAY = "optimizer.weight_decay"


def study(arms=None, **changes):
    section = {"space": {DECAY: GRID}, "seeds": 2, "examples": 50} | changes
    return parse_study(
        {
            "name": "tuned",
            "base": {"data": {"per_class": 10}},
            "splits": [0, 1],
            "seeds": 3,
            "arms": arms or {"a": {}, "b": {"prior.law": "quadratic"}},
            "tune": section,
        }
    )


class Trainer:
    """Writes metrics instead of training, and remembers what it was asked for."""

    def __init__(self, store, accuracy, loss=lambda recipe: 1.0):
        self.store, self.accuracy, self.loss = store, accuracy, loss
        self.waves, self.trained = [], []

    def __call__(self, cells):
        self.waves.append(list(cells))
        for cell in {cell.key: cell for cell in cells}.values():
            if self.store.status(cell.key)[0] != "waiting":
                continue
            accuracy = self.accuracy(cell.recipe)
            self.trained.append(cell)
            folder = self.store.cell(cell.key)
            if accuracy is None:
                write_failure(folder, "diverged", "the loss is nan")
                continue
            metrics = {"format": 1, "accuracy": accuracy, "loss": self.loss(cell.recipe)}
            write_json(folder / "metrics.json", metrics)


def peak(at):
    """Accuracy that is highest where the weight decay is ``at``."""
    return lambda recipe: 0.9 if recipe.optimizer.weight_decay == at else 0.5


def by_arm(tunings):
    return {tuning.slot.arm: tuning for tuning in tunings}


def test_each_arm_gets_its_own_best_and_equal_trials_in_one_wave(tmp_path):
    store = Store(tmp_path)

    def accuracy(recipe):
        best = 1e-4 if recipe.prior.law == "uniform" else 1e-3
        return peak(best)(recipe) + 0.01 * recipe.seed

    trainer = Trainer(store, accuracy)
    found = by_arm(tune(study(), store, trainer))
    assert {arm: tuning.values for arm, tuning in found.items()} == {
        "a": {DECAY: 1e-4},
        "b": {DECAY: 1e-3},
    }
    assert found["a"].accuracy == pytest.approx(0.905)
    assert len(trainer.waves) == 1
    assert len(trainer.trained) == 2 * 4 * 2 * 2
    for tuning in found.values():
        assert [trial.values[DECAY] for trial in tuning.trials] == GRID["values"]
        assert all(len(trial.cells) == 4 for trial in tuning.trials)
        assert tuning.edge == ()


def test_trials_see_no_test_image_and_their_own_budget(tmp_path):
    store = Store(tmp_path)
    trainer = Trainer(store, peak(1e-4))
    tune(study(splits=[1], seeds=[7]), store, trainer)
    recipes = [cell.recipe for cell in trainer.trained]
    assert {recipe.data.evaluate for recipe in recipes} == {"validation"}
    assert {recipe.budget.examples for recipe in recipes} == {50}
    assert {(recipe.data.split, recipe.seed) for recipe in recipes} == {(1, 7)}


def test_results_are_stored_and_reused_even_without_the_cells(tmp_path):
    store = Store(tmp_path)
    first = tune(study(), store, Trainer(store, peak(1e-4)))
    assert read_tunings(tmp_path) == first
    empty = Store(tmp_path)
    empty.cell = lambda key: tmp_path / "nowhere" / key
    idle = Trainer(empty, peak(1e-2))
    assert tune(study(), empty, idle) == first
    assert idle.waves == []
    # A changed search is not the stored one; the trials that both have are not run again.
    again = Trainer(store, peak(1e-4))
    wider = study(space={DECAY: {"values": [*GRID["values"], 1e-1]}})
    assert all(len(tuning.trials) == 5 for tuning in tune(wider, store, again))
    assert {cell.recipe.optimizer.weight_decay for cell in again.trained} == {1e-1}


def test_a_tie_goes_to_the_lower_loss_then_to_the_first(tmp_path):
    def loss(recipe):
        return {1e-4: 0.2, 1e-3: 0.1}.get(recipe.optimizer.weight_decay, 0.3)

    tied = Trainer(Store(tmp_path / "1"), lambda _: 0.5, loss)
    assert {t.values[DECAY] for t in tune(study(), tied.store, tied)} == {1e-3}
    equal = Trainer(Store(tmp_path / "2"), lambda _: 0.5)
    assert {t.values[DECAY] for t in tune(study(), equal.store, equal)} == {1e-5}


def test_a_diverged_trial_is_the_worst(tmp_path):
    def accuracy(recipe):
        return None if recipe.optimizer.weight_decay == 1e-3 and recipe.seed else 0.01

    trainer = Trainer(Store(tmp_path), accuracy)
    for tuning in tune(study(), trainer.store, trainer):
        worst = tuning.trials[2]
        assert (worst.accuracy, worst.loss) == (0.005, None)
        assert tuning.values[DECAY] == 1e-5
    json.loads((tmp_path / "tune.json").read_text())


@pytest.mark.parametrize(
    ("best", "words"), [(1e-2, "0.01 is the largest"), (1e-5, "1e-05 is the smallest"), (1e-3, "")]
)
def test_the_edge_of_the_space_is_told(tmp_path, best, words):
    trainer = Trainer(Store(tmp_path), peak(best))
    for tuning in tune(study(), trainer.store, trainer):
        assert len(tuning.edge) == bool(words)
        assert all(words in sentence for sentence in tuning.edge)


def test_nothing_lies_below_zero(tmp_path):
    trainer = Trainer(Store(tmp_path), peak(0))
    space = {DECAY: {"values": [0, 1e-4, 1e-3]}}
    assert all(tuning.edge == () for tuning in tune(study(space=space), trainer.store, trainer))


def test_a_crashed_trial_leaves_its_arm_untuned_and_the_others_alone(tmp_path):
    store = Store(tmp_path)
    plan = study()

    def train(cells):
        for cell in cells:
            if cell.recipe.prior.law == "quadratic" and cell.seed == 1:
                write_failure(store.cell(cell.key), "crashed", "killed")
            else:
                Trainer(store, peak(1e-4))([cell])

    assert list(by_arm(tune(plan, store, train))) == ["a"]
    result = outcome(plan, store)
    waiting = [row for row in result.rows if row.arm == "b"]
    assert {(row.status, row.key) for row in waiting} == {("waiting", "")}
    assert result.failures[0].status == "crashed"
    assert result.failures[0].error == "killed"


def test_an_arm_may_take_the_values_of_another(tmp_path):
    arms = {"a": {"prior.law": "quadratic"}, "b": {"prior.law": "linear", "tuned_as": "a"}}
    trainer = Trainer(Store(tmp_path), peak(1e-3))
    plan = study(arms)
    values = chosen_values(plan, tune(plan, trainer.store, trainer))
    assert {cell.slot.arm for cell in trainer.trained} == {"a"}
    assert values[Slot("b", "digits", "plain_cnn")] == {DECAY: 1e-3}
    cells = plan.plan(values)
    assert {cell.recipe.optimizer.weight_decay for cell in cells} == {1e-3}
    assert {cell.recipe.data.evaluate for cell in cells} == {"test"}
    assert len(cells) == 2 * 2 * 3


def test_arms_with_equal_trials_share_their_cells(tmp_path):
    other = {"tune": {DECAY: {"values": [1e-5, 1e-4, 1e-3, 5e-1]}}}
    trainer = Trainer(Store(tmp_path), peak(1e-4))
    tune(study({"a": {}, "b": other}), trainer.store, trainer)
    assert len(trainer.trained) == 5 * 2 * 2


@pytest.mark.parametrize(("sampler", "waves"), [("random", 1), ("tpe", 3)])
def test_samplers_are_deterministic_and_alike_for_all_arms(tmp_path, sampler, waves):
    space = {
        DECAY: {"low": 1e-5, "high": 1e-1, "log": True},
        "budget.batch_size": {"low": 8, "high": 64, "log": True},
        "optimizer.nesterov": {"values": [True, False]},
    }
    plan = study(sampler=sampler, trials=12, space=space, splits=[0], seeds=1, seed=3)
    trainer = Trainer(Store(tmp_path / "1"), lambda recipe: 1 / recipe.budget.batch_size)
    first = tune(plan, trainer.store, trainer)
    assert len(trainer.waves) == waves
    tried = [[trial.values for trial in tuning.trials] for tuning in first]
    assert tried[0] == tried[1]
    assert len(tried[0]) == 12
    assert all(isinstance(values["budget.batch_size"], int) for values in tried[0])
    # Stopped in the middle and begun again: the finished trials are asked for again.
    (tmp_path / "1" / "tune.json").unlink()
    again = Trainer(trainer.store, trainer.accuracy)
    assert tune(plan, again.store, again) == first
    assert again.trained == []


@pytest.mark.parametrize(
    "content",
    [{}, {"tunings": 5}, {"tunings": [5]}, {"tunings": [{"slot": {}, "edge": [], "trials": []}]}],
)
def test_damaged_results_of_tuning_are_told_in_a_sentence(tmp_path, content):
    write_json(tmp_path / "tune.json", {"format": 1, **content})
    with pytest.raises(RunError, match=r"tune\.json is damaged; delete it"):
        read_tunings(tmp_path)
    write_json(tmp_path / "tune.json", [content])
    assert read_tunings(tmp_path) == []


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(InputError, match="examples = 0 must be > 0"):
        study(examples=0)
