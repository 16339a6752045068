"""Two processes, started by torchrun as a user would, give the result of one."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.lab.data import DataRecipe, Prepared
from convprior.lab.train import (
    BudgetRecipe,
    LossRecipe,
    ModelRecipe,
    OptimizerRecipe,
    PriorRecipe,
    Recipe,
    fit,
    train,
)
from convprior.lab.train.distributed import join_batch_norm


def recipe(
    law: Any, batch_size: int, examples: int, loss: LossRecipe | None = None, **optimizer: Any
) -> Recipe:
    return Recipe(
        prior=PriorRecipe(law=law),
        loss=loss or LossRecipe(),
        optimizer=OptimizerRecipe(**{"lr": 0.02, "weight_decay": 0.05, **optimizer}),
        budget=BudgetRecipe(examples=examples, batch_size=batch_size, precision="fp32"),
    )


# Shares of 2 and 3 images; the last batch is cut to 3 (2 and 1) and to 1 (1 and none).
RECIPES = {
    "sgd": recipe("quadratic", 5, 43, clip=0.8),
    "adamw": recipe("two_level", 5, 41, name="adamw", lr=0.005, ema=0.5),
    "single": recipe("quadratic", 1, 6),
    "bias": recipe("uniform", 5, 41, LossRecipe("bias", normalize="running", label_smoothing=0.1)),
    "mean one": recipe("uniform", 5, 43, LossRecipe("bias", mean_one=True)),
    "constant": recipe("uniform", 5, 41, LossRecipe("bias", control="constant")),
    "shuffled": recipe("uniform", 5, 41, LossRecipe("bias", control="shuffled")),
    "focal": recipe("uniform", 5, 41, LossRecipe("focal")),
}
WHOLE = Recipe(
    data=DataRecipe(per_class=10, flip=True),
    model=ModelRecipe(width=4),
    prior=PriorRecipe(law="quadratic"),
    budget=BudgetRecipe(examples=603, batch_size=10, precision="fp32", evaluations=2),
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    script = Path(__file__).with_name("two_processes.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run(
        [*launcher, "--nproc-per-node=2", script, folder],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=600,
    )
    return folder


def flat(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([state[name].double().flatten() for name in sorted(state)])


@pytest.mark.parametrize("shares", [[3, 2], [0, 4]])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_joint_normalization_equals_pytorchs_on_the_whole_batch(
    shares: list[int], momentum: float | None, out: Path
) -> None:
    generator = torch.Generator().manual_seed(1)
    layer = nn.BatchNorm2d(4, momentum=momentum).double()
    layer.weight.data = torch.rand(4, generator=generator, dtype=torch.float64)
    layer.bias.data = torch.rand(4, generator=generator, dtype=torch.float64)
    for _ in range(2):
        x = torch.rand(sum(shares), 4, 3, 3, generator=generator, dtype=torch.float64)
        g = torch.rand(sum(shares), 4, 3, 3, generator=generator, dtype=torch.float64)
        x.requires_grad_()
        layer.zero_grad()
        y = layer(x)
        y.backward(g)
    parts = [load_file(out / f"norm-{shares[0]}-{momentum}-{rank}") for rank in (0, 1)]
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(torch.cat([part["y"] for part in parts]), y.detach(), **close)
    torch.testing.assert_close(torch.cat([part["x.grad"] for part in parts]), x.grad, **close)
    for part in parts:
        torch.testing.assert_close(part["weight.grad"], layer.weight.grad, **close)
        torch.testing.assert_close(part["bias.grad"], layer.bias.grad, **close)
        for name, tensor in layer.state_dict().items():
            torch.testing.assert_close(part[name], tensor, **close)


def run_alone(case: Recipe, data: Prepared, start: Any, nudge: int | None = None) -> Any:
    """One process; with ``nudge``, after moving initial weights by one rounding unit or none."""
    training = start(case)
    if nudge is not None:
        generator = torch.Generator().manual_seed(nudge)
        for parameter in training.model.parameters():
            signs = torch.randint(-1, 2, parameter.shape, generator=generator)
            parameter.data *= 1 + signs * 2.0**-23
    before = flat(training.model.state_dict())
    fit(training, data)
    if training.average is not None:
        with training.average.applied():
            return flat(training.model.state_dict()), before, training
    return flat(training.model.state_dict()), before, training


@pytest.mark.parametrize("name", RECIPES)
def test_weights_are_those_of_one_process(name: str, data: Prepared, start: Any, out: Path) -> None:
    case = RECIPES[name]
    alone, before, training = run_alone(case, data, start)
    meter, weights = training.meter, training.objective.weights
    # Both add the same numbers in another order, so the yardstick is what one rounding of the
    # initial weights does to the result; later roundings have fewer steps to grow in.
    nudged = [run_alone(case, data, start, seed)[0] for seed in range(5)]
    rounding = max(float((other - alone).abs().max()) for other in nudged)
    both = [load_file(out / f"{name}-{rank}") for rank in (0, 1)]
    assert all(torch.equal(both[0][key], both[1][key]) for key in both[0])
    steps = -(-case.budget.examples // case.budget.batch_size)
    assert (flat(both[0]) - alone).abs().max() <= steps * rounding
    # The yardstick is short: a wrong weight of the shares would move the weights by far more.
    assert steps * rounding < 0.01 * (alone - before).abs().max()
    told = [json.loads((out / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1]
    loss, correct, count, *record = told[0]
    assert (correct, count) == (meter.correct, meter.count)
    assert loss == pytest.approx(meter.loss, rel=1e-4)
    if weights is not None:
        own = [float(value) for value in weights.state_dict().values()]
        assert record == pytest.approx(own, rel=1e-3)


def test_a_whole_run_is_that_of_one_process(out: Path, tmp_path: Path) -> None:
    alone = train(WHOLE, tmp_path, device="cpu")
    both = [json.loads((out / f"metrics-{rank}.json").read_text()) for rank in (0, 1)]
    assert both[0]["processes"] == 2
    for key in ("evaluated_images", "examples", "steps", "key"):
        assert both[0][key] == both[1][key] == alone[key]
    for key in ("accuracy", "train_accuracy", "loss", "train_loss"):
        assert both[0][key] == both[1][key]
    # Rounding can move single images over a class boundary.
    assert both[0]["accuracy"] == pytest.approx(alone["accuracy"], abs=2.5 / 359)
    assert both[0]["loss"] == pytest.approx(alone["loss"], rel=1e-3)
    assert {path.name for path in (out / "whole").iterdir()} == {
        "recipe.json", "log.jsonl", "weights.safetensors", "metrics.json",
    }  # fmt: skip


def test_one_process_goes_on_where_two_were_stopped(out: Path, tmp_path: Path) -> None:
    for rank in (0, 1):
        message = json.loads((out / f"stopped-{rank}.json").read_text())
        assert message.startswith("stopped after 500 of 603 examples")
    resumed = train(WHOLE, out / "interrupted", device="cpu")
    whole = json.loads((out / "whole" / "metrics.json").read_text())
    assert resumed["loss"] == pytest.approx(whole["loss"], rel=1e-3)
    assert resumed["processes"] == 1


def test_a_normalization_that_cannot_be_joined_is_named() -> None:
    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(InputError, match=r"0 is a Own, whose statistics cannot be joined"):
        join_batch_norm(nn.Sequential(Own(3)), torch.device("cpu"))


def test_evaluation_of_a_joined_normalization_needs_no_other_process() -> None:
    plain = nn.Sequential(nn.BatchNorm2d(2)).eval()
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = plain(x)
    joined = join_batch_norm(plain, torch.device("cpu"))
    assert torch.equal(joined(x), expected)


def test_the_seed_of_the_recipe_reaches_every_process(
    out: Path, data: Prepared, start: Any
) -> None:
    other = replace(RECIPES["sgd"], seed=1)
    moved = run_alone(other, data, start)[0] - flat(load_file(out / "sgd-0"))
    assert moved.abs().max() > 1e-3
