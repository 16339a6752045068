"""A run's folder holds all that is needed to have its network back, before and after training."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from convprior._files import load_tensors, save_tensors
from convprior.errors import InputError, RunError
from convprior.lab.data import DataRecipe, prepare
from convprior.lab.train import (
    BudgetRecipe,
    ModelRecipe,
    PriorRecipe,
    Recipe,
    build_model,
    load_run,
    train,
)

DATA = DataRecipe(per_class=4)


def recipe(name: str = "wrn10_1", **options) -> Recipe:
    return Recipe(
        DATA,
        ModelRecipe(name, **options),
        budget=BudgetRecipe(20, 10, "fp32", evaluations=0),
        prior=PriorRecipe(law="quadratic", init=True),
        seed=4,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(recipe(), folder)
    return folder


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)


def test_the_trained_and_the_initial_network_are_back(run: Path) -> None:
    model, found = load_run(run)
    assert found == recipe()
    assert not model.training
    # Small and standard form of a wide ResNet have equal weights: digits of 8 px are small.
    assert model.get_submodule("conv1").stride == (1, 1)
    initial, _ = load_run(run, initial=True)
    assert same(initial, build_model(recipe(), prepare(DATA)))
    assert not same(initial, model)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_the_form_can_be_said_where_the_data_are_gone(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    text = (moved / "recipe.json").read_text()
    (moved / "recipe.json").write_text(text.replace('"digits"', '"./gone"'))
    model, _ = load_run(moved)  # the size of the images is noted
    assert model.get_submodule("conv1").stride == (1, 1)
    path = moved / "weights.safetensors"
    weights, header = load_tensors(path)
    del header["image_size"]  # as older versions wrote it
    save_tensors(path, weights, header)
    with pytest.raises(InputError, match=r"size of the images of './gone'"):
        load_run(moved)
    for small, stride in ((True, (1, 1)), (False, (2, 2))):
        model, _ = load_run(moved, small_input=small)
        assert model.get_submodule("conv1").stride == stride


@pytest.mark.parametrize(
    ("name", "options"),
    [("vgg11_bn", {"width": 4}), ("plain_cnn", {"small_input": False}), ("timm:resnet10t", {})],
)
def test_other_networks(tmp_path: Path, name: str, options: dict) -> None:
    data = DataRecipe(per_class=4, image_size=32, channels=3)
    chosen = Recipe(
        data, ModelRecipe(name, **options), budget=BudgetRecipe(10, 10, "fp32", evaluations=0)
    )
    train(chosen, tmp_path)
    initial, _ = load_run(tmp_path, initial=True)
    assert same(initial, build_model(chosen, prepare(data)))
    model, _ = load_run(tmp_path)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 10)


def test_folders_without_a_finished_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run: no recipe\.json"):
        load_run(tmp_path)
    shutil.copy(run / "recipe.json", tmp_path)
    with pytest.raises(RunError, match="not finished"):
        load_run(tmp_path)
    text = (run / "recipe.json").read_text()
    shutil.copy(run / "weights.safetensors", tmp_path)
    (tmp_path / "recipe.json").write_text(text.replace("wrn10_1", "wrn10_2"))
    with pytest.raises(RunError, match="do not fit the wrn10_2"):
        load_run(tmp_path)
    (tmp_path / "recipe.json").write_text("[]")
    with pytest.raises(RunError, match="is no recipe"):
        load_run(tmp_path)
