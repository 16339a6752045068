"""The prior slot of a recipe: every law as decay and as initial weights, and files of priors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.filters import FilterPrior, save_priors
from convprior.lab.train import ModelRecipe, PriorRecipe, Recipe, recipe_key
from convprior.lab.train.optimizers import build_optimizer
from convprior.lab.train.priors import build_prior, layer_priors, permuted, shape_filters_
from convprior.models import create_model

SMOOTH = FilterPrior.correlated(3, "matern32", 1.0)


def network() -> nn.Module:
    return create_model("wrn10_1", small_input=True, seed=0)  # 3x3 and 1x1 convolutions


def filters(model: nn.Module) -> dict[str, Tensor]:
    modules = model.named_modules()
    return {n: m.weight.detach().clone() for n, m in modules if isinstance(m, nn.Conv2d)}


def recipe(**prior: Any) -> Recipe:
    return Recipe(model=ModelRecipe(name="wrn10_1"), prior=PriorRecipe(**prior), seed=3)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[dict[str, FilterPrior]], str]:
    def save(priors: dict[str, FilterPrior]) -> str:
        path = tmp_path / "priors.safetensors"
        save_priors(path, priors)
        return str(path)

    return save


def penalty(weight: Tensor, prior: FilterPrior) -> Tensor:
    return prior.penalty(weight.double())


@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_a_correlated_prior_decays_by_its_precision_and_1x1_filters_plainly(floor: float) -> None:
    model = network()
    term = build_prior(model, recipe(law="correlated", lengthscale=1.0, floor=floor, strength=0.1))
    assert term is not None
    expected = torch.zeros((), dtype=torch.float64)
    for weight in filters(model).values():
        if weight.shape[-1] == 3:
            squares = weight.double().square().sum()
            expected += floor * squares + (1 - floor) * penalty(weight, SMOOTH)
        else:
            expected += weight.double().square().sum()
    torch.testing.assert_close(term().double(), 0.1 * expected, rtol=1e-5, atol=0)


def test_a_file_covers_layers_by_name_before_kernel_size_and_leaves_the_rest_plain(
    saved: Callable[[dict[str, FilterPrior]], str],
) -> None:
    model = network()
    rim = FilterPrior.locality(3, floor=0.5)
    path = saved({"conv1": rim, "3x3": SMOOTH})
    term = build_prior(model, recipe(law="file", file=path, strength=1.0))
    assert term is not None
    expected = torch.zeros((), dtype=torch.float64)
    for name, weight in filters(model).items():
        prior = rim if name == "conv1" else SMOOTH
        plain = weight.double().square().sum()
        expected += penalty(weight, prior) if weight.shape[-1] == 3 else plain
    torch.testing.assert_close(term().double(), expected, rtol=1e-5, atol=0)


def test_a_single_prior_covers_its_kernel_size(tmp_path: Path) -> None:
    SMOOTH.save(tmp_path / "one.safetensors")
    chosen = recipe(law="file", file=str(tmp_path / "one.safetensors"))
    assert set(layer_priors(network(), chosen.prior, 0).values()) == {
        SMOOTH,
        FilterPrior.independent(1),
    }


def test_without_correlations_a_file_gives_the_costs_of_its_variances(
    saved: Callable[[dict[str, FilterPrior]], str],
) -> None:
    both = FilterPrior.locality(3, floor=0.5) * SMOOTH
    path = saved({"3x3": both})
    term = build_prior(network(), recipe(law="file", file=path, uncorrelated=True, strength=1.0))
    assert term is not None
    costs = term.costs["conv1"]
    expected = 1.0 / both.variance
    torch.testing.assert_close(costs, expected / expected.mean())


def test_every_tensor_is_decayed_by_exactly_one(
    saved: Callable[[dict[str, FilterPrior]], str],
) -> None:
    model, path = network(), saved({"conv1": SMOOTH})
    chosen = recipe(law="file", file=path)
    term = build_prior(model, chosen)
    assert term is not None
    optimizer = build_optimizer(model, chosen, term)  # raises if one is decayed twice
    undecayed = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert optimizer.param_groups[0]["weight_decay"] == 0
    convolutions = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d)}
    assert undecayed == convolutions


def test_initial_filters_have_the_covariance_of_the_prior() -> None:
    model = nn.Sequential(nn.Conv2d(100, 1000, 3))
    with torch.no_grad():
        model[0].weight.normal_(generator=torch.Generator().manual_seed(0))
    shape_filters_(model, recipe(law="correlated", init=True, regularize=False))
    rows = model[0].weight.detach().double().reshape(-1, 9)
    sample, sigma = rows.T @ rows / len(rows), SMOOTH.covariance
    # Of a Gaussian's second moments: variance (S_pp S_qq + S_pq^2) / n; 45 of them, 5 sigma.
    variances = sigma.diagonal()
    error = ((torch.outer(variances, variances) + sigma.square()) / len(rows)).sqrt()
    assert ((sample - sigma).abs() < 5 * error).all()


def test_initial_filters_alone_leave_the_decay_to_the_optimizer() -> None:
    model = network()
    assert build_prior(model, recipe(law="quadratic", init=True, regularize=False)) is None
    before = filters(model)
    shape_filters_(model, recipe(law="quadratic", init=True, regularize=False))
    after = filters(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name, weight in before.items() if weight.shape[-1] == 3}


def test_the_control_shuffles_rows_and_columns_alike() -> None:
    shuffled = permuted(SMOOTH, seed=1)
    assert shuffled != SMOOTH
    assert shuffled == permuted(SMOOTH, seed=1)
    torch.testing.assert_close(
        torch.linalg.eigvalsh(shuffled.covariance), torch.linalg.eigvalsh(SMOOTH.covariance)
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_control_of_three_taps_changes_them_too(seed: int) -> None:
    line = FilterPrior.correlated((1, 3))
    assert permuted(line, seed) != line


def test_a_control_that_changes_nothing_is_refused(
    saved: Callable[[dict[str, FilterPrior]], str],
) -> None:
    path = saved({"3x3": FilterPrior.independent(3)})
    with pytest.raises(InputError, match="'permuted' changes nothing"):
        build_prior(network(), recipe(law="file", file=path, control="permuted"))


def test_a_file_is_part_of_the_recipe_by_its_content(
    saved: Callable[[dict[str, FilterPrior]], str],
) -> None:
    path = saved({"3x3": SMOOTH})
    first = recipe(law="file", file=path)
    assert first.prior.digest is not None
    assert recipe_key(first) == recipe_key(recipe(law="file", file=path))
    saved({"3x3": FilterPrior.correlated(3, "matern32", 2.0)})
    assert recipe_key(first) != recipe_key(recipe(law="file", file=path))
    with pytest.raises(InputError, match="has changed since the recipe was made"):
        build_prior(network(), first)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"law": "file"}, "prior.file = None must name a file"),
        ({"law": "file", "file": "nowhere.safetensors"}, "nowhere.safetensors' cannot be read"),
        ({"law": "correlated", "control": "reversed"}, "use 'permuted'"),
        ({"law": "correlated", "lengthscale": 0.0}, "prior.lengthscale = 0.0 must be > 0"),
        ({"init": True}, "prior.init = True changes nothing"),
        ({"law": "quadratic", "regularize": False}, "set prior.init = true too"),
        ({"law": "linear", "floor": 1.0, "control": "permuted"}, "prior.control changes nothing"),
        (
            {"law": "linear", "init": True, "init_floor": 1.0, "regularize": False},
            "draws plain initial filters",
        ),
    ],
)
def test_wrong_slots_are_refused(prior: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PriorRecipe(**prior)


@pytest.mark.parametrize(
    ("prior", "same"),
    [
        ({"floor": 0.5, "family": "exponential", "file": "none"}, {}),
        ({"law": "linear", "lengthscale": 2.0, "uncorrelated": True}, {"law": "linear"}),
        ({"law": "linear", "init_floor": 0.5}, {"law": "linear"}),
        ({"law": "correlated", "file": "none", "digest": "0"}, {"law": "correlated"}),
    ],
)
def test_keys_without_effect_make_no_other_recipe(
    prior: dict[str, Any], same: dict[str, Any]
) -> None:
    assert recipe_key(recipe(**prior)) == recipe_key(recipe(**same))


def test_a_singular_file_is_refused_before_training(
    saved: Callable[[dict[str, FilterPrior]], str],
) -> None:
    few = FilterPrior.measured(torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0)))
    path = saved({"conv1": few})
    with pytest.raises(InputError, match=r"prior of 'conv1' is singular \(rank 8 of 9.*shrinkage"):
        build_prior(network(), recipe(law="file", file=path))
    model = network()
    shape_filters_(model, recipe(law="file", file=path, init=True, regularize=False))


def test_a_file_for_another_network_is_refused(
    saved: Callable[[dict[str, FilterPrior]], str],
) -> None:
    path = saved({"features.0": SMOOTH})
    with pytest.raises(InputError, match=r"does not fit the network: .*'features\.0' matches no"):
        build_prior(network(), recipe(law="file", file=path))
