"""The connectivity slot: what it changes, what it refuses, and that old recipes keep their keys."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from convprior.errors import InputError
from convprior.lab.data import DataRecipe, prepare
from convprior.lab.train import (
    BudgetRecipe,
    ConnectivityRecipe,
    ModelRecipe,
    OptimizerRecipe,
    PriorRecipe,
    Recipe,
    as_dict,
    build_model,
    from_dict,
    load_run,
    recipe_key,
    train,
)
from convprior.lab.train.optimizers import build_optimizer
from convprior.lab.train.priors import build_prior
from convprior.local import LocalConv2d, LowRankLocalConv2d

DATA = DataRecipe(per_class=4)
KINDS = {
    "low_rank": ConnectivityRecipe("low_rank", "conv3", rank=2),
    "input": ConnectivityRecipe("low_rank", "conv2", rank=2, weights="input"),
    "no softmax": ConnectivityRecipe("low_rank", "conv1,conv3", rank=2, normalize=None),
    "shuffled": ConnectivityRecipe("low_rank", "conv3", rank=2, control="shuffled"),
    "local": ConnectivityRecipe("local", "conv1"),
    "spatial_bias": ConnectivityRecipe("spatial_bias"),
    "coordinates": ConnectivityRecipe("coordinates"),
    "wide": ConnectivityRecipe("wide", "conv3", rank=2),
}


def recipe(connectivity: ConnectivityRecipe, model: str = "simple_local_net", **rest) -> Recipe:
    return Recipe(
        DATA,
        ModelRecipe(model, width=4),
        connectivity=connectivity,
        budget=BudgetRecipe(20, 10, "fp32", evaluations=0),
        **rest,
    )


def built(connectivity: ConnectivityRecipe, model: str = "simple_local_net", **rest) -> nn.Module:
    return build_model(recipe(connectivity, model, **rest), prepare(DATA))


def test_recipes_without_the_slot_keep_the_keys_of_before() -> None:
    assert recipe_key(Recipe()) == "8790fe1f573c0a00"  # of version 0.1.0
    assert recipe_key(Recipe(connectivity=ConnectivityRecipe("conv", rank=9))) == recipe_key(
        Recipe()
    )
    assert recipe_key(recipe(KINDS["low_rank"])) != recipe_key(recipe(ConnectivityRecipe()))


def test_equal_networks_are_equal_recipes() -> None:
    """A spatial bias alone is rank one, whose recipes keep the keys they have had."""
    for layers, key in (("conv3", "e31415e323ddbe14"), (None, "f48a56e4ad4be25e")):
        rank_one = ConnectivityRecipe("low_rank", layers, rank=1)
        assert ConnectivityRecipe("spatial_bias", layers, rank=7, weights="map") == rank_one
        assert recipe_key(Recipe(connectivity=rank_one)) == key


def test_recipes_of_before_are_read() -> None:
    old = as_dict(Recipe())
    del old["connectivity"]
    assert from_dict(Recipe, old) == Recipe()


@pytest.mark.parametrize("slot", KINDS.values(), ids=KINDS)
def test_a_slot_survives_the_way_through_json(slot: ConnectivityRecipe) -> None:
    assert from_dict(Recipe, json.loads(json.dumps(as_dict(recipe(slot))))) == recipe(slot)


def test_keys_without_effect_take_their_defaults() -> None:
    assert ConnectivityRecipe("coordinates", "conv1", 7, "map") == ConnectivityRecipe("coordinates")
    assert ConnectivityRecipe("local", rank=7, weights="map") == ConnectivityRecipe("local")
    assert ConnectivityRecipe("low_rank", " conv2, conv1,conv2 ").layers == "conv1,conv2"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "lrlc"}, "connectivity.kind = 'lrlc' must be 'conv' or"),
        ({"kind": "low_rank", "rank": 0}, "connectivity.rank = 0 must be >= 1"),
        ({"kind": "low_rank", "layers": " ,"}, "connectivity.layers = ' ,' names no layer"),
        ({"kind": "local", "control": "shuffled"}, "where connectivity.kind = 'local'; set it to"),
        ({"control": "shuffled"}, "changes nothing where connectivity.kind = 'conv'"),
        ({"kind": "low_rank", "weights": "map", "control": "shuffled"}, "every position is free"),
        ({"kind": "low_rank", "rank": 1, "spatial_bias": False}, "is a convolution; set spatial"),
        ({"kind": "wide", "layers": "conv3", "rank": 1}, "adds no filter; set 2 or more"),
        ({"kind": "wide"}, "must name the one layer to widen"),
        ({"kind": "wide", "layers": "conv*"}, "must name the one layer to widen"),
        ({"kind": "wide", "layers": "conv1,conv2"}, "must name the one layer to widen"),
        ({"kind": "wide", "layers": "conv9"}, "'conv9' must .* choose conv1, conv2 or conv3"),
    ],
)
def test_combinations_without_meaning_are_refused(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_dict(Recipe, {"connectivity": values})


@pytest.mark.parametrize(
    ("slot", "model", "message"),
    [
        (ConnectivityRecipe("low_rank", "conv4"), "simple_local_net", "conv4.*conv1"),
        (KINDS["wide"], "plain_cnn", "is for model.name = 'simple_local_net', not for 'plain_cnn'"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(
    slot: ConnectivityRecipe, model: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        built(slot, model)


def test_each_kind_changes_the_layers_it_names() -> None:
    model = built(ConnectivityRecipe("low_rank", "conv3", 2, "rows", None, False))
    assert type(model.conv2).__name__ == "HeConv2d"
    assert isinstance(model.conv3, LowRankLocalConv2d)
    layer = model.conv3
    assert (layer.rank, layer.weights, layer.normalize) == (2, "rows", None)
    assert not any("bias" in name for name, _ in layer.named_parameters())
    local = built(KINDS["local"]).conv1
    assert isinstance(local, LocalConv2d)
    assert local.bias.shape == (4, 6, 6)
    everywhere = built(KINDS["spatial_bias"])
    assert all(everywhere.get_submodule(f"conv{i}").rank == 1 for i in (1, 2, 3))
    assert built(KINDS["wide"]).conv3.out_channels == 8
    assert built(KINDS["coordinates"]).network.conv1.in_channels == 3
    authors = built(ConnectivityRecipe("low_rank", "conv3", 4, init="authors"))
    ours = built(ConnectivityRecipe("low_rank", "conv3", 4))
    ratio = ours.conv3.weight.std() / authors.conv3.weight.std()
    assert 1.7 < ratio < 2.3  # sqrt(4), from 576 draws


def test_the_layers_that_stay_are_those_of_the_other_arms() -> None:
    plain = built(ConnectivityRecipe())
    for name in ("low_rank", "shuffled", "input"):
        other = built(KINDS[name])
        for key in ("conv1.weight", "fc.weight"):
            assert torch.equal(other.state_dict()[key], plain.state_dict()[key])
    assert not torch.equal(
        built(KINDS["low_rank"]).conv3.weight, built(KINDS["low_rank"], seed=1).conv3.weight
    )


def test_any_network_can_be_relaxed() -> None:
    model = built(ConnectivityRecipe("low_rank", "conv[34].*", 2), "plain_cnn")
    found = [name for name, m in model.named_modules() if isinstance(m, LowRankLocalConv2d)]
    assert found == ["conv3.0", "conv4.0"]


@pytest.mark.parametrize("law", ["uniform", "quadratic"])
def test_tables_never_decay(law: str) -> None:
    chosen = recipe(
        ConnectivityRecipe("low_rank", rank=2),
        prior=PriorRecipe(law=law),
        optimizer=OptimizerRecipe("sgd", lr=1e-3, weight_decay=0.1, momentum=0.0),
    )
    model = build_model(chosen, prepare(DATA))
    optimizer = build_optimizer(model, chosen, build_prior(model, chosen))
    names = {id(p): name for name, p in model.named_parameters()}
    tables = {n for n in names.values() if "row_" in n or "column_" in n}
    assert len(tables) == 3 * 4
    held = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(names.values())
    for group in optimizer.param_groups:
        decayed = {names[id(p)] for p in group["params"]} if group["weight_decay"] else set()
        assert not decayed & tables


@pytest.mark.parametrize("slot", KINDS.values(), ids=KINDS)
def test_a_run_is_loaded_again_without_its_data(slot: ConnectivityRecipe, tmp_path: Path) -> None:
    chosen = recipe(slot)
    train(chosen, tmp_path)
    text = (tmp_path / "recipe.json").read_text()
    (tmp_path / "recipe.json").write_text(text.replace('"digits"', '"./gone"'))
    initial, _ = load_run(tmp_path, initial=True)
    expected = build_model(chosen, prepare(DATA)).state_dict()
    found = initial.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    model, _ = load_run(tmp_path)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
