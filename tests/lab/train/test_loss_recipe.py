"""The loss slot: what it refuses, which recipes are equal, and that old ones keep their keys."""

import json
from dataclasses import replace
from typing import Any, get_args, get_type_hints

import pytest

from convprior.errors import InputError
from convprior.lab.train import LossRecipe, Recipe, as_dict, from_dict, recipe_key
from convprior.lab.train.loss_recipe import _OWNERS, LOSSES
from convprior.lab.train.recipe import canonical

# A value other than the default for every key, with the loss that looks at it.
OTHERS: dict[str, Any] = {
    "alpha": 0.5,
    "beta": 0.0,
    "normalize": "running",
    "mean_one": True,
    "max_weight": 2.0,
    "control": "inverted",
    "features": "layer4",
    "gamma": 1.0,
    "epsilon": -0.5,
    "q": 0.5,
    "sce_alpha": 1.0,
    "sce_beta": 0.3,
    "order": 6,
}


def test_recipes_of_before_keep_their_keys() -> None:
    """The keys that version 0.1.0 gave."""
    smooth = Recipe(loss=LossRecipe(label_smoothing=0.1))
    assert recipe_key(Recipe()) == "8790fe1f573c0a00"
    assert canonical(smooth)["loss"] == {"name": "cross_entropy", "label_smoothing": 0.1}
    assert recipe_key(smooth) == "18e52c69d6b3635a"


def test_recipes_of_before_are_read() -> None:
    old = as_dict(Recipe())
    old["loss"] = {"name": "cross_entropy", "label_smoothing": 0.0}
    assert from_dict(Recipe, old) == Recipe()


@pytest.mark.parametrize("key", OTHERS)
def test_a_key_counts_for_its_own_loss_alone(key: str) -> None:
    for name in LOSSES:
        plain = LossRecipe(name)
        if name in _OWNERS[key]:
            changed = Recipe(loss=LossRecipe(name, **{key: OTHERS[key]}))
            assert recipe_key(changed) != recipe_key(Recipe(loss=plain))
            assert from_dict(Recipe, json.loads(json.dumps(as_dict(changed)))) == changed
        elif key != "control":
            assert LossRecipe(name, **{key: OTHERS[key]}) == plain


def test_every_key_has_an_owner_and_every_loss_a_line() -> None:
    assert set(OTHERS) | {"name", "label_smoothing"} == set(as_dict(LossRecipe()))
    assert set(_OWNERS) == set(OTHERS)
    assert tuple(LOSSES) == get_args(get_type_hints(LossRecipe)["name"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "dice"}, "loss.name = 'dice' must be 'cross_entropy' or 'bias' or"),
        ({"label_smoothing": 1.0}, r"loss.label_smoothing = 1.0 must be in \[0, 1\)"),
        ({"name": "bias", "alpha": -0.1}, r"loss.alpha = -0.1 must be in \[0, 20\]"),
        ({"name": "bias", "beta": 1.0}, r"loss.beta = 1.0 must be in \[0, 1\)"),
        ({"name": "bias", "normalize": "epoch"}, "loss.normalize = 'epoch' must be 'batch' or"),
        ({"name": "bias", "max_weight": 0.9}, "loss.max_weight = 0.9 must be >= 1"),
        ({"name": "bias", "control": "random"}, "loss.control = 'random' must be 'constant' or"),
        ({"control": "shuffled"}, "changes nothing where loss.name = 'cross_entropy'; set it to"),
        (
            {"name": "bias", "control": "constant", "mean_one": True},
            "loss.mean_one = True with loss.control = 'constant' makes every weight 1",
        ),
        (
            {"name": "bias", "control": "shuffled", "alpha": 0},
            "loss.alpha = 0.0 makes all weights alike; raise it",
        ),
        ({"name": "focal", "gamma": -1}, "loss.gamma = -1.0 must be >= 0"),
        ({"name": "focal", "gamma": float("inf")}, "loss.gamma = inf must be >= 0"),
        ({"name": "poly1", "epsilon": -1.5}, "loss.epsilon = -1.5 must be >= -1"),
        ({"name": "gce", "q": 0.0}, r"loss.q = 0.0 must be in \(0, 1\]"),
        ({"name": "sce", "sce_alpha": -1}, "loss.sce_alpha = -1.0 must be >= 0"),
        ({"name": "sce", "sce_beta": -1}, "loss.sce_beta = -1.0 must be >= 0"),
        ({"name": "taylor", "order": 0}, "loss.order = 0 must be >= 1"),
    ],
)
def test_values_without_meaning_are_refused(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_dict(Recipe, {"loss": values})


def test_an_arm_may_change_the_loss_of_the_base() -> None:
    """Keys of the base's loss do not follow into another one."""
    base = Recipe(loss=LossRecipe("focal", gamma=1.0))
    tree = as_dict(base)
    tree["loss"]["name"] = "poly1"
    assert from_dict(Recipe, tree) == replace(base, loss=LossRecipe("poly1"))
