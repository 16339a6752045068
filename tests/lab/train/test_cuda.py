"""The same on a GPU: what may differ there is rounding alone."""

import pytest
import torch

from convprior import LocoReg, create_model
from convprior.lab.data import Augment, DataRecipe, prepare, training_batch
from convprior.lab.train import (
    BudgetRecipe,
    LossRecipe,
    OptimizerRecipe,
    PriorRecipe,
    Recipe,
    train,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("form", ["decay", "gradient", "penalty"])
def test_loco_reg_equals_the_cpu(form: str) -> None:
    weights = []
    for device in ("cpu", "cuda"):
        model = create_model("wrn10_1", seed=0).to(device, memory_format=torch.channels_last)
        regularizer = LocoReg(model, 0.1)
        if form == "penalty":
            regularizer().backward()
        elif form == "gradient":
            regularizer.add_gradient_()
        else:
            regularizer.decay_(0.5)
        weights.append([(p.grad if form != "decay" else p) for p in model.parameters()])
    for expected, found in zip(*weights, strict=True):
        if expected is None:
            assert found is None
        else:
            # One multiplication or two: a rounding each.
            torch.testing.assert_close(found.cpu(), expected, rtol=4e-7, atol=0)


def test_batches_equal_the_cpu() -> None:
    batches = []
    for device in ("cpu", "cuda"):
        data = prepare(DataRecipe(per_class=10), device)
        settings = {"mean": data.mean, "std": data.std, "augment": Augment(True, 2, 3, 0.2)}
        batches.append(training_batch(data.train, 3, 20, seed=1, **settings))
    for expected, found in zip(*batches, strict=True):
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", ["auto", "fp32"])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_run_learns(tmp_path, name: str, precision: str) -> None:
    recipe = Recipe(
        data=DataRecipe(per_class=20),
        prior=PriorRecipe(law="quadratic"),
        optimizer=OptimizerRecipe(name=name, lr=0.1 if name == "sgd" else 3e-3, ema=0.9),
        budget=BudgetRecipe(examples=3000, batch_size=50, precision=precision),
    )
    metrics = train(recipe, tmp_path, device="cuda")
    assert metrics["device"] == "cuda"
    assert metrics["accuracy"] > 0.75


@pytest.mark.parametrize("control", [None, "shuffled"])
def test_a_weighted_run_learns_and_tells_its_weights(tmp_path, control: str | None) -> None:
    loss = LossRecipe("bias", normalize="running", max_weight=2.0, control=control)
    budget = BudgetRecipe(examples=3000, batch_size=50)
    metrics = train(Recipe(loss=loss, budget=budget), tmp_path, device="cuda")
    assert 0.7 <= metrics["mean_weight"] < metrics["largest_weight"] <= 2.0
    assert metrics["accuracy"] > 0.75
