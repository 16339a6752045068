"""Training with every loss: against plain arithmetic, interrupted, and with its weights told."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, one_hot

from convprior.errors import InputError
from convprior.lab.data import DataRecipe, Prepared, training_batches
from convprior.lab.train import (
    BudgetRecipe,
    Interrupted,
    LossRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    Training,
    fit,
    train,
)
from convprior.lab.train.loss_recipe import LOSSES
from convprior.lab.train.objective import check_features
from convprior.losses import bias_weights

BIASED = {
    "batch": LossRecipe("bias"),
    "running": LossRecipe("bias", normalize="running", max_weight=1.5),
    "mean_one": LossRecipe("bias", mean_one=True),
    "constant": LossRecipe("bias", control="constant"),
    "shuffled": LossRecipe("bias", control="shuffled"),
    "inverted": LossRecipe("bias", control="inverted"),
    "2021": LossRecipe("bias", control="2021"),
    "smoothed": LossRecipe("bias", label_smoothing=0.1, features="4"),
}
OTHERS = {name: LossRecipe(name) for name in LOSSES if name not in ("cross_entropy", "bias")}


def recipe(loss: LossRecipe, examples: int = 43, **optimizer: Any) -> Recipe:
    slot = OptimizerRecipe(**{"lr": 0.05, "momentum": 0.0, "warmup": 0.0, **optimizer})
    budget = BudgetRecipe(examples=examples, batch_size=8, precision="fp32")
    return Recipe(loss=loss, optimizer=slot, budget=budget)


def first_batch(case: Recipe, data: Prepared) -> tuple[Tensor, Tensor]:
    x, y, _ = next(
        training_batches(
            data.train, 8, seed=case.seed, mean=data.mean, std=data.std, augment=data.augment
        )
    )
    return x, y


def written_out(slot: LossRecipe, logits: Tensor, y: Tensor, features: Tensor) -> Tensor:
    """The loss of a batch, from its formula."""
    each = cross_entropy(logits, y, reduction="none", label_smoothing=slot.label_smoothing)
    log_p = log_softmax(logits, 1)
    log_right = log_p.gather(1, y[:, None])[:, 0]
    p = log_right.exp()
    match slot.name:
        case "cross_entropy":
            return each.mean()
        case "focal":
            return ((1 - p) ** slot.gamma * each).mean()
        case "poly1":
            return (each + slot.epsilon * (1 - p)).mean()
        case "gce":
            return ((1 - p**slot.q) / slot.q).mean()
        case "sce":
            # The reverse: -sum_k p_k log y_k, with log 0 = -4.
            reverse = 4.0 * (log_p.exp() * (1 - one_hot(y, logits.shape[1]))).sum(1)
            return (slot.sce_alpha * each + slot.sce_beta * reverse).mean()
        case "taylor":
            return sum(((1 - p) ** n / n).mean() for n in range(1, slot.order + 1))
    z = bias_weights(features, slot.alpha, slot.beta)
    match slot.control:
        case "constant":
            z = z.mean()
        case "inverted":
            z = math.exp(slot.alpha) / (z + slot.beta) - slot.beta
        case "2021":
            z = (z + slot.beta) ** (slot.beta / slot.alpha) - 1 + slot.alpha
    if slot.mean_one:
        z = z / z.mean()
    return (z * each).mean()


CASES = {name: slot for name, slot in BIASED.items() if name != "shuffled"} | OTHERS
CASES["plain"] = LossRecipe(label_smoothing=0.1)


@pytest.mark.parametrize("name", CASES)
def test_a_step_goes_down_the_gradient_of_the_formula(
    name: str, data: Prepared, start: Any
) -> None:
    case = recipe(CASES[name], examples=8, schedule="constant", weight_decay=0.0)
    training: Training = start(case)
    oracle = list(start(case).model.double().train())
    x, y = first_batch(case, data)
    before_relu = nn.Sequential(*oracle[:5])(x.double())
    features = oracle[5](before_relu)
    logits = nn.Sequential(*oracle[6:])(features)
    if case.loss.features == "4":
        features = before_relu
    loss = written_out(case.loss, logits, y, features)
    loss.backward()
    fit(training, data)
    parameters = nn.Sequential(*oracle).parameters()
    assert training.meter.recent == pytest.approx(loss.item(), rel=1e-5)
    for moved, parameter in zip(training.model.parameters(), parameters, strict=True):
        expected = parameter.detach() - 0.05 * parameter.grad
        torch.testing.assert_close(moved.double(), expected, rtol=1e-4, atol=1e-6)


def test_shuffled_weights_are_the_batches_weights_on_other_images(
    data: Prepared, start: Any
) -> None:
    own, others = (start(recipe(BIASED[name], examples=8)) for name in ("batch", "shuffled"))
    fit(own, data)
    fit(others, data)
    records = [training.objective.weights for training in (own, others)]
    assert float(records[0].total) == pytest.approx(float(records[1].total), rel=1e-6)
    assert torch.equal(records[0].largest, records[1].largest)
    assert own.meter.loss != others.meter.loss


def everything(training: Training) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in training._tensors().items()}


@pytest.mark.parametrize("name", ["batch", "running", "shuffled", "constant"])
def test_interruptions_change_no_bit(name: str, data: Prepared, start: Any, tmp_path: Path) -> None:
    """The smallest variance ever seen and the draws of shuffled weights are part of the state."""

    class Stopped(Exception):  # noqa: N818
        pass

    case = recipe(BIASED[name], ema=0.9)
    undisturbed = start(case, dropout=0.3)
    fit(undisturbed, data)
    path = tmp_path / "state.safetensors"
    for stop in (8, 24, 40):
        training = start(case, dropout=0.3)
        if path.exists():
            training.load(path)

        def after_step(training: Training = training, stop: int = stop) -> None:
            if training.examples >= stop:
                raise Stopped

        with pytest.raises(Stopped):
            fit(training, data, after_step)
        training.save(path)
    resumed = start(case, dropout=0.3)
    resumed.load(path)
    fit(resumed, data)
    expected, found = everything(undisturbed), everything(resumed)
    assert any(key.startswith("objective.") for key in expected)
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        assert torch.equal(tensor, found[key]), key


def test_a_plain_loss_adds_nothing_to_the_state(start: Any) -> None:
    """States of before go on."""
    assert not [n for n in start(recipe(LossRecipe()))._tensors() if n.startswith("objective")]


def test_the_network_is_left_as_it_was(data: Prepared, start: Any) -> None:
    training = start(recipe(BIASED["batch"]))
    names = list(training.model.state_dict())
    fit(training, data)
    assert list(training.model.state_dict()) == names
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in training.model.modules())
    assert training.objective.tap is None


WHOLE = Recipe(
    data=DataRecipe(per_class=8),
    model=ModelRecipe(width=4),
    loss=LossRecipe("bias", normalize="running", control="shuffled"),
    optimizer=OptimizerRecipe(lr=0.05),
    budget=BudgetRecipe(examples=170, batch_size=20, evaluations=4),
)


def test_a_whole_run_tells_its_weights_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    metrics = train(WHOLE, tmp_path / "whole")
    assert 0.6 < metrics["mean_weight"] < metrics["largest_weight"]
    lines = (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    curve = [json.loads(line) for line in lines]
    ends = [0, *(point["examples"] for point in curve)]
    seen = [b - a for a, b in itertools.pairwise(ends)]
    total = sum(n * point["mean_weight"] for n, point in zip(seen, curve, strict=True))
    assert total / 170 == pytest.approx(metrics["mean_weight"], rel=1e-9)
    for _ in range(2):
        calls = iter([False] * 2 + [True])
        with pytest.raises(Interrupted):
            train(WHOLE, tmp_path / "parts", should_stop=lambda: next(calls))  # noqa: B023
    again = train(WHOLE, tmp_path / "parts")
    for key in ("mean_weight", "largest_weight", "loss", "train_loss"):
        assert again[key] == metrics[key]
    whole, parts = (tmp_path / name / "weights.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_networks_are_evaluated_by_cross_entropy(tmp_path: Path) -> None:
    """A loss that weighs nothing differently must give the same network and the same numbers."""
    plain = train(replace(WHOLE, loss=LossRecipe()), tmp_path / "plain")
    same = train(replace(WHOLE, loss=LossRecipe("bias", alpha=1e-7, beta=0.0)), tmp_path / "same")
    assert same["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    assert "mean_weight" not in plain
    assert same["mean_weight"] == pytest.approx(1.0) == same["largest_weight"]
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("plain", "same")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-4)


def test_networks_of_timm_have_features_too(tmp_path: Path) -> None:
    model = ModelRecipe("timm:mobilenetv3_small_050")
    budget = BudgetRecipe(examples=40, batch_size=20, precision="fp32", evaluations=0)
    slot = LossRecipe("bias", mean_one=True)
    metrics = train(replace(WHOLE, model=model, budget=budget, loss=slot), tmp_path)
    assert metrics["mean_weight"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["largest_weight"] > 1.0


def test_a_layer_that_is_not_there_is_named(data: Prepared, start: Any) -> None:
    network = start(recipe(LossRecipe())).model
    slot = LossRecipe("bias", features="layer9")
    with pytest.raises(InputError, match=r"^loss\.features: .*layer9"):
        fit(start(recipe(slot)), data)
    with pytest.raises(InputError, match=r"^loss\.features: .*layer9"):
        check_features(network, slot, torch.zeros(2, 2, 6, 6))
    check_features(network, LossRecipe(features="layer9"), torch.zeros(2, 2, 6, 6))
