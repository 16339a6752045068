import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from convprior.errors import InputError
from convprior.lab.data import DataRecipe
from convprior.lab.train import (
    BudgetRecipe,
    LossRecipe,
    ModelRecipe,
    OptimizerRecipe,
    PriorRecipe,
    Recipe,
    as_dict,
    from_dict,
    recipe_key,
)

ADAPTER = TypeAdapter(Recipe)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    law = draw(st.sampled_from(["uniform", "quadratic", "two_level"]))
    return Recipe(
        data=DataRecipe(flip=draw(st.booleans())),
        model=ModelRecipe(width=draw(st.none() | st.integers(1, 64))),
        prior=PriorRecipe(law=law, floor=draw(st.floats(0, 1))),
        loss=LossRecipe(
            name=draw(st.sampled_from(["cross_entropy", "bias", "focal"])),
            label_smoothing=draw(st.floats(0, 0.5)),
            alpha=draw(st.floats(0, 2)),
            mean_one=draw(st.booleans()),
            max_weight=draw(st.none() | st.integers(1, 3)),
            gamma=draw(st.floats(0, 5)),
        ),
        optimizer=OptimizerRecipe(ema=draw(st.none() | st.floats(0.1, 0.9))),
        budget=BudgetRecipe(batch_size=draw(st.integers(1, 512))),
        seed=draw(st.integers(0, 9)),
    )


@given(recipes())
def test_a_recipe_survives_the_way_through_plain_data_and_pydantic(recipe: Recipe) -> None:
    again = from_dict(Recipe, as_dict(recipe))
    assert again == recipe
    assert recipe_key(again) == recipe_key(recipe)
    assert ADAPTER.validate_python(as_dict(recipe)) == recipe


@given(recipes(), recipes())
def test_keys_are_equal_exactly_where_recipes_are(one: Recipe, other: Recipe) -> None:
    assert (recipe_key(one) == recipe_key(other)) == (one == other)


def test_a_whole_number_and_the_same_float_are_one_recipe() -> None:
    whole, broken = OptimizerRecipe(lr=1), OptimizerRecipe(lr=1.0)
    assert recipe_key(Recipe(optimizer=whole)) == recipe_key(Recipe(optimizer=broken))


def test_every_field_is_documented_in_the_schema() -> None:
    schema = ADAPTER.json_schema()
    tables = [schema, *schema["$defs"].values()]
    for table in tables:
        assert table["additionalProperties"] is False
        for name, entry in table["properties"].items():
            assert entry.get("description"), name


BAD = [
    ({"optimizer": {"lrr": 1.0}}, "optimizer.lrr is not a key of a recipe; did you mean 'lr'"),
    ({"xyz": 1}, "the keys are data, model"),
    ({"optimizer": {"lr": "fast"}}, "optimizer.lr = 'fast' must be a number"),
    ({"optimizer": {"lr": 0.0}}, "optimizer.lr = 0.0 must be > 0"),
    ({"optimizer": {"lr": float("nan")}}, "optimizer.lr = nan must be > 0"),
    ({"optimizer": {"momentum": 1.0}}, r"optimizer.momentum = 1.0 must be in \[0, 1\)"),
    ({"optimizer": {"weight_decay": -1.0}}, "optimizer.weight_decay = -1.0 must be >= 0"),
    ({"optimizer": {"clip": 0.0}}, "optimizer.clip = 0.0 must be > 0"),
    ({"optimizer": {"ema": 1.0}}, "optimizer.ema = 1.0"),
    ({"optimizer": {"warmup": 1.0}}, "optimizer.warmup = 1.0"),
    ({"optimizer": []}, r"optimizer = \[\] must be a table"),
    ({"prior": {"law": "quad"}}, "prior.law = 'quad' must be 'uniform' or"),
    ({"prior": {"floor": 2.0}}, "prior.floor = 2.0"),
    ({"prior": {"init_floor": 0.0}}, "prior.init_floor = 0.0"),
    ({"prior": {"strength": -1}}, "prior.strength = -1.0"),
    ({"prior": {"control": "reversed"}}, "prior.control = 'reversed' changes nothing"),
    ({"loss": {"label_smoothing": 1}}, "loss.label_smoothing = 1.0"),
    ({"model": {"name": ""}}, "model.name = ''"),
    ({"model": {"width": 0}}, "model.width = 0"),
    ({"budget": {"examples": 0}}, "budget.examples = 0"),
    ({"budget": {"examples": True}}, "budget.examples = True must be a whole number"),
    ({"budget": {"batch_size": 0}}, "budget.batch_size = 0"),
    ({"budget": {"evaluations": -1}}, "budget.evaluations = -1"),
    ({"seed": 0.5}, "seed = 0.5 must be a whole number"),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_a_bad_value_is_named_with_its_rule(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_dict(Recipe, values)
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(values, strict=True)


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().seed = 1  # type: ignore[misc]


def test_a_whole_number_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(InputError, match=r"optimizer\.lr must be a number below 1e308"):
        from_dict(Recipe, {"optimizer": {"lr": 10**400}})
    assert DataRecipe(per_class=10**400).per_class == 10**400
