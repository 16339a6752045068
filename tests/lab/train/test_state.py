"""A run that was stopped and resumed is the run that was not."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from convprior._files import load_tensors, save_tensors
from convprior.errors import RunError
from convprior.lab.data import Prepared
from convprior.lab.train import (
    BudgetRecipe,
    OptimizerRecipe,
    PriorRecipe,
    Recipe,
    Training,
    fit,
)

# 13 steps, the last one cut; an epoch has 30 images, so ends within step 3.
BUDGET = BudgetRecipe(examples=103, batch_size=8)


def recipe(law: Any = "uniform", form: Any = "auto", **optimizer: Any) -> Recipe:
    slot = OptimizerRecipe(**{"lr": 0.02, "weight_decay": 0.02, **optimizer})
    return Recipe(prior=PriorRecipe(law=law, form=form), optimizer=slot, budget=BUDGET)


class Stopped(Exception):  # noqa: N818
    pass


def fit_until(training: Training, data: Prepared, examples: int) -> None:
    def after_step() -> None:
        if training.examples >= examples:
            raise Stopped

    with pytest.raises(Stopped):
        fit(training, data, after_step)


def everything(training: Training) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in training._tensors().items()}


CASES = {
    "sgd": recipe(),
    "sgd without momentum": recipe(momentum=0.0),
    "adamw": recipe(name="adamw"),
    "average": recipe(ema=0.9, clip=0.7),
    "penalty": recipe("quadratic", "penalty"),
    "decoupled": recipe("linear", "decoupled", name="adamw", ema=0.5),
}


@pytest.mark.parametrize("name", CASES)
def test_interruptions_change_no_bit(name: str, data: Prepared, start: Any, tmp_path: Path) -> None:
    case = CASES[name]
    undisturbed = start(case, dropout=0.3)
    fit(undisturbed, data)
    path = tmp_path / "state.safetensors"
    # After the first step, within and across an epoch, before the last step.
    for stop in (8, 16, 32, 96):
        training = start(case, dropout=0.3)
        if path.exists():
            training.load(path)
        fit_until(training, data, stop)
        training.save(path)
    resumed = start(case, dropout=0.3)
    resumed.load(path)
    assert resumed.examples == 96
    fit(resumed, data)
    expected, found = everything(undisturbed), everything(resumed)
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        assert torch.equal(tensor, found[key]), key
    assert resumed.meter.loss == undisturbed.meter.loss
    assert resumed.meter.correct == undisturbed.meter.correct


def test_the_state_before_the_first_step_can_be_saved(
    data: Prepared, start: Any, tmp_path: Path
) -> None:
    one, two = start(recipe(ema=0.5)), start(recipe(ema=0.5))
    one.save(tmp_path / "state")
    two.load(tmp_path / "state")
    assert two.examples == 0
    fit(two, data)


def test_a_restored_optimizer_keeps_the_layout_of_the_weights(
    data: Prepared, start: Any, tmp_path: Path
) -> None:
    training, again = start(recipe(name="adamw")), start(recipe(name="adamw"))
    fit_until(training, data, 8)
    training.save(tmp_path / "state")
    again.load(tmp_path / "state")
    for one, two in zip(training.model.parameters(), again.model.parameters(), strict=True):
        for kind, tensor in training.optimizer.state[one].items():
            assert again.optimizer.state[two][kind].stride() == tensor.stride()
            assert again.optimizer.state[two][kind].dtype == tensor.dtype


def test_a_state_of_another_recipe_is_refused(data: Prepared, start: Any, tmp_path: Path) -> None:
    start(recipe()).save(tmp_path / "state")
    other = start(replace(recipe(), seed=1))
    with pytest.raises(RunError, match=r"belongs to recipe \w{16}, not to \w{16}: choose another"):
        other.load(tmp_path / "state")


@pytest.mark.parametrize("header", [{"format": 99}, None, {}])
def test_a_state_of_another_format_is_refused(header: Any, start: Any, tmp_path: Path) -> None:
    save_tensors(tmp_path / "state", {"model.x": torch.zeros(1)}, header)
    with pytest.raises(RunError, match=r"has format (99|None), this is convprior .* with format 1"):
        start(recipe()).load(tmp_path / "state")


def test_a_state_of_another_network_is_refused(start: Any, tmp_path: Path) -> None:
    training = start(recipe())
    training.save(tmp_path / "state")
    tensors, header = load_tensors(tmp_path / "state")
    tensors["model.extra.weight"] = tensors.pop("model.0.weight")
    save_tensors(tmp_path / "state", tensors, header)
    with pytest.raises(RunError, match="does not fit the network at model"):
        start(recipe()).load(tmp_path / "state")


def test_a_damaged_state_is_named(start: Any, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"not a state")
    with pytest.raises(RunError, match=r"could not read .*state"):
        start(recipe()).load(tmp_path / "state")


def test_a_full_disk_leaves_the_previous_state(
    data: Prepared, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, path = start(recipe()), tmp_path / "state.safetensors"
    fit_until(training, data, 8)
    training.save(path)
    before = path.read_bytes()
    fit_until(training, data, 16)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"could not save .*No space left on device"):
        training.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
