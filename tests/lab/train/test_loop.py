"""The loop beside the slow one that anybody would write, and the laws it keeps."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from convprior.filters import tap_costs
from convprior.lab.data import Prepared, training_batch
from convprior.lab.train import (
    BudgetRecipe,
    Diverged,
    LossRecipe,
    ModelRecipe,
    OptimizerRecipe,
    PriorRecipe,
    Recipe,
    World,
    build_model,
    fit,
    learning_rate,
)
from convprior.lab.train.meter import Meter
from convprior.lab.train.priors import build_prior


def recipe(
    prior: dict[str, Any] | None = None, examples: int = 103, batch_size: int = 8, **optimizer: Any
) -> Recipe:
    return Recipe(
        prior=PriorRecipe(**(prior or {})),
        loss=LossRecipe(label_smoothing=0.1),
        optimizer=OptimizerRecipe(**{"lr": 0.05, "weight_decay": 0.02, **optimizer}),
        budget=BudgetRecipe(examples=examples, batch_size=batch_size, precision="fp32"),
        seed=5,
    )


def plain_loop(model: nn.Module, data: Prepared, recipe: Recipe) -> None:
    """Float64, one parameter after the other, the penalty through autograd."""
    model.double().train()
    slot, total, size = recipe.optimizer, recipe.budget.examples, recipe.budget.batch_size
    costs = {
        f"{name}.weight": tap_costs(module.kernel_size, recipe.prior.law, recipe.prior.floor)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and recipe.prior.law != "uniform"
    }
    moments: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    for step in range(-(-total // size)):
        seen, end = step * size, min((step + 1) * size, total)
        lr = learning_rate(slot, (seen + end) / 2 / total)
        x, y, _ = training_batch(
            data.train,
            step,
            size,
            seed=recipe.seed,
            mean=data.mean,
            std=data.std,
            augment=data.augment,
        )
        loss = nn.functional.cross_entropy(
            model(x[: end - seen].double()),
            y[: end - seen],
            label_smoothing=recipe.loss.label_smoothing,
        )
        if slot.name == "sgd":
            for name, cost in costs.items():
                weight = model.get_parameter(name)
                loss = loss + slot.weight_decay / 2 * (cost * weight.square()).sum()
        model.zero_grad()
        loss.backward()
        norm = sum(float(p.grad.square().sum()) for p in model.parameters()) ** 0.5
        clip = 1.0 if slot.clip is None else min(1.0, slot.clip / norm)
        for name, w in model.named_parameters():
            grad = w.grad * clip
            with torch.no_grad():
                if slot.name == "adamw":
                    w -= lr * slot.weight_decay * costs.get(name, 1.0) * w
                    m = moments[name] = 0.9 * moments.get(name, 0.0) + 0.1 * grad
                    v = squares[name] = 0.999 * squares.get(name, 0.0) + 0.001 * grad**2
                    scale = (v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                    w -= lr * m / (1 - 0.9 ** (step + 1)) / scale
                else:
                    if name not in costs:
                        grad += slot.weight_decay * w
                    m = moments[name] = slot.momentum * moments.get(name, 0.0) + grad
                    w -= lr * (grad + slot.momentum * m if slot.nesterov else m)


CASES = [
    recipe(),
    recipe(nesterov=False, schedule="constant", warmup=0.3),
    recipe({"law": "quadratic"}),
    recipe({"law": "gaussian", "floor": 0.3}, clip=0.5),
    recipe(name="adamw", lr=0.01),
    recipe({"law": "two_level"}, name="adamw", lr=0.01, weight_decay=0.3),
]


@pytest.mark.parametrize("case", CASES)
def test_weights_equal_those_of_the_plain_loop(case: Recipe, data: Prepared, start: Any) -> None:
    reference = start(case).model
    before = [p.detach().clone() for p in reference.parameters()]
    plain_loop(reference, data, case)
    training = start(case)
    fit(training, data)
    pairs = zip(training.model.parameters(), reference.parameters(), before, strict=True)
    for ours, theirs, old in pairs:
        # 13 steps in float32 against float64: each rounds at 6e-8 of the weights and, where
        # gradients of a batch cancel, at a larger share of the movement.
        assert (ours - theirs).norm() < 1e-4 * (theirs - old).norm() + 13 * 6e-8 * old.norm()


def weights(training: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in training.model.parameters()])


def test_the_uniform_law_is_ordinary_weight_decay_however_it_is_applied(
    data: Prepared, start: Any
) -> None:
    """Arms of a study differ by the law alone: the other ways to the uniform law agree."""
    plain = recipe()
    for other in (
        recipe({"strength": 0.01}),  # LocoReg instead of the optimizer
        recipe(clip=1e9),  # the same, because a penalty is clipped with the gradient
        recipe({"law": "quadratic", "floor": 1.0}),
    ):
        one, two = start(plain), start(other)
        fit(one, data)
        fit(two, data)
        torch.testing.assert_close(weights(two), weights(one), rtol=1e-5, atol=1e-6)


def test_a_strength_of_zero_frees_the_convolutions_alone(data: Prepared, start: Any) -> None:
    training = start(recipe({"strength": 0.0}))
    assert training.prior is None
    decays = {
        id(p): group["weight_decay"]
        for group in training.optimizer.param_groups
        for p in group["params"]
    }
    for name, module in training.model.named_modules():
        for kind, parameter in module.named_parameters(recurse=False):
            free = isinstance(module, nn.Conv2d) and kind == "weight"
            assert decays[id(parameter)] == (0.0 if free else 0.02), name


@pytest.mark.parametrize(("name", "form"), [("sgd", "decoupled"), ("adamw", "penalty")])
def test_the_form_of_the_prior_can_be_chosen(
    name: str, form: str, data: Prepared, start: Any
) -> None:
    results = []
    for chosen in ("auto", form):
        training = start(recipe({"law": "quadratic", "form": chosen}, name=name))
        fit(training, data)
        results.append(weights(training))
    assert (results[0] - results[1]).abs().max() > 1e-5


@given(examples=st.integers(1, 70), batch_size=st.integers(1, 40))
@settings(max_examples=15)
def test_exactly_the_budget_is_seen(
    data: Prepared, start: Any, examples: int, batch_size: int
) -> None:
    training = start(recipe(examples=examples, batch_size=batch_size))
    sizes: list[int] = []
    training.model.register_forward_hook(lambda module, x, y: sizes.append(len(x[0])))
    fit(training, data)
    assert sum(sizes) == examples == training.examples
    assert training.step == len(sizes) == -(-examples // batch_size)
    assert set(sizes[:-1]) <= {batch_size}


@given(
    warmup=st.floats(0, 0.9),
    lr=st.floats(1e-4, 10),
    progress=st.floats(0, 1),
    schedule=st.sampled_from(["cosine", "constant"]),
)
def test_learning_rate_rises_to_the_peak_and_does_not_jump(
    warmup: float, lr: float, progress: float, schedule: Any
) -> None:
    slot = OptimizerRecipe(lr=lr, warmup=warmup, schedule=schedule)
    assert learning_rate(slot, warmup) == pytest.approx(lr)
    assert learning_rate(slot, 1.0) == pytest.approx(0.0 if schedule == "cosine" else lr, abs=1e-12)
    assert 0 <= learning_rate(slot, progress) <= lr * (1 + 1e-12)
    if progress > warmup and schedule == "cosine":
        mirrored = warmup + 1 - progress
        both = learning_rate(slot, progress) + learning_rate(slot, mirrored)
        assert both == pytest.approx(lr, rel=1e-6)
    elif 0 < progress < warmup:
        assert learning_rate(slot, progress) == pytest.approx(lr * progress / warmup)


def test_average_follows_its_formula(data: Prepared, start: Any) -> None:
    training = start(recipe(ema=0.3))

    def floats() -> dict[str, Tensor]:
        state = training.model.state_dict()
        return {n: t.double().clone() for n, t in state.items() if t.is_floating_point()}

    expected = floats()

    def after_step() -> None:
        step = training.step - 1
        decay = min(0.3, (1 + step) / (10 + step))
        for name, tensor in floats().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor

    fit(training, data, after_step)
    live = floats()
    with training.average.applied():
        inside = floats()
    for name, mean in expected.items():
        torch.testing.assert_close(inside[name], mean, rtol=1e-5, atol=1e-6)
        assert torch.equal(training.model.state_dict()[name].double(), live[name])
    assert "1.running_var" in expected


def test_clipping_bounds_the_step(data: Prepared, start: Any) -> None:
    slot: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "lr": 1.0, "schedule": "constant"}
    training = start(recipe(clip=1e-3, warmup=0.0, examples=8, **slot))
    before = weights(training)
    fit(training, data)
    assert (weights(training) - before).norm() == pytest.approx(1e-3, rel=1e-3)


def test_random_states_of_the_caller_are_left_alone(data: Prepared, start: Any) -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    fit(start(recipe(), dropout=0.5), data)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert states[2] == random.getstate()


def test_dropout_depends_on_the_seed_and_not_on_the_caller(data: Prepared, start: Any) -> None:
    results = []
    for seed, callers in ((5, 0), (5, 1), (6, 1)):
        training = start(replace(recipe(), seed=seed), dropout=0.5)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(callers)
            fit(training, data)
        results.append(weights(training))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[1], results[2])


def test_divergence_names_step_loss_rate_and_fix(data: Prepared, start: Any) -> None:
    training = start(recipe(lr=1e30, warmup=0.0, schedule="constant"))
    with pytest.raises(
        Diverged, match=r"loss became (nan|inf) at step \d+ .*1e\+30\): lower opt.*lr"
    ):
        fit(training, data)
    assert training.examples < 103


def test_a_divergence_read_late_names_the_step_it_happened() -> None:
    meter = Meter(World(0, 1, torch.device("cpu")), window=4)
    good, bad, right = torch.tensor(2.0), torch.tensor(torch.nan), torch.tensor(3)
    for step, loss in enumerate([good, good, bad]):
        meter.add(loss, right, step, 8 * step, 8 * step + 8, 0.1)
    with pytest.raises(Diverged, match="became nan at step 2 "):
        meter.add(good, right, 3, 24, 32, 0.1)


def test_a_window_of_the_meter_changes_no_sum() -> None:
    meters = [Meter(World(0, 1, torch.device("cpu")), window) for window in (1, 3)]
    for meter in meters:
        for step in range(7):
            loss = torch.tensor(step / 2)
            meter.add(loss, torch.tensor(step % 3), step, 2 * step, 2 * step + 2, 0.1)
        meter.flush()
        assert (meter.loss, meter.correct, meter.count) == (21.0, 6.0, 14)
    assert meters[0].recent == 3.0


@pytest.mark.parametrize("control", [None, "reversed", "permuted"])
def test_initial_filters_take_the_profile_of_the_prior(data: Prepared, control: Any) -> None:
    def filters(**prior: Any) -> list[Tensor]:
        built = build_model(Recipe(model=ModelRecipe(), prior=PriorRecipe(**prior), seed=3), data)
        return [m.weight for m in built.modules() if isinstance(m, nn.Conv2d)]

    prior = {"law": "quadratic", "control": control}
    plain, shaped = filters(**prior), filters(**prior, init=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, filters(), strict=True))
    for old, new in zip(plain, shaped, strict=True):
        ratio = (new / old).detach().double().square()
        profile = ratio[0, 0]
        torch.testing.assert_close(ratio, profile.expand_as(ratio), rtol=1e-5, atol=0)
        assert profile.mean() == pytest.approx(1.0, rel=1e-5)
        costs = tap_costs((3, 3), "quadratic", 0.25, control=control, seed=3)
        torch.testing.assert_close(
            profile * costs / (profile * costs).mean(), torch.ones_like(costs), rtol=1e-5, atol=0
        )


def test_seeds_differ_and_arms_share_initial_weights(data: Prepared) -> None:
    one = build_model(Recipe(seed=1), data).state_dict()
    arm = build_model(Recipe(seed=1, prior=PriorRecipe(law="linear")), data).state_dict()
    other = build_model(Recipe(seed=2), data).state_dict()
    assert all(torch.equal(one[name], arm[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_with_clipping_the_uniform_law_is_a_penalty_as_every_other_law_is() -> None:
    # Else the baseline's decay would escape the clipping that the decay of the arms gets.
    model = nn.Conv2d(1, 2, 3)
    clipped = build_prior(model, recipe(clip=0.5))
    assert clipped is not None
    assert all((costs == 1.0).all() for costs in clipped.costs.values())
    assert build_prior(model, recipe()) is None
