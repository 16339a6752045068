"""Training: a recipe says everything that decides the outcome, one loop carries it out.

:func:`train` is a whole run, from a :class:`Recipe` to the files of its result; :func:`fit` is the
loop alone. Both give the same weights on one process and on several, and after an interruption.
"""

from convprior.lab.train.average import WeightAverage
from convprior.lab.train.distributed import World, world
from convprior.lab.train.evaluate import Evaluation, evaluate
from convprior.lab.train.loop import fit
from convprior.lab.train.meter import Diverged
from convprior.lab.train.optimizers import learning_rate
from convprior.lab.train.precision import compute_dtype
from convprior.lab.train.recipe import (
    BudgetRecipe,
    ConnectivityRecipe,
    LossRecipe,
    ModelRecipe,
    OptimizerRecipe,
    PriorRecipe,
    Recipe,
    as_dict,
    canonical,
    from_dict,
    recipe_key,
)
from convprior.lab.train.run import Interrupted, train
from convprior.lab.train.saved import load_run
from convprior.lab.train.state import Training, build_model

__all__ = [
    "BudgetRecipe",
    "ConnectivityRecipe",
    "Diverged",
    "Evaluation",
    "Interrupted",
    "LossRecipe",
    "ModelRecipe",
    "OptimizerRecipe",
    "PriorRecipe",
    "Recipe",
    "Training",
    "WeightAverage",
    "World",
    "as_dict",
    "build_model",
    "canonical",
    "compute_dtype",
    "evaluate",
    "fit",
    "from_dict",
    "learning_rate",
    "load_run",
    "recipe_key",
    "train",
    "world",
]
