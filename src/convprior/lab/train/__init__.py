"""Training: a recipe says everything that decides the outcome, one loop carries it out."""

from convprior.lab.train.recipe import (
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

__all__ = [
    "BudgetRecipe",
    "LossRecipe",
    "ModelRecipe",
    "OptimizerRecipe",
    "PriorRecipe",
    "Recipe",
    "as_dict",
    "from_dict",
    "recipe_key",
]
