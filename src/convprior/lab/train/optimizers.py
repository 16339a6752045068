"""The optimizer, its learning rate and the prior slot of a recipe."""

import math
from typing import Literal

import torch
from torch import nn

from convprior.filters import LocoReg, tap_costs
from convprior.lab.train.recipe import OptimizerRecipe, Recipe


def learning_rate(recipe: OptimizerRecipe, progress: float) -> float:
    r"""The learning rate at a share ``t`` of the budget: a pure function, nothing to save.

    With warm-up share ``w`` and peak ``lr``: ``lr t / w`` for ``t < w``; after that ``lr`` or, for
    the cosine, ``lr (1 + cos(pi (t - w) / (1 - w))) / 2``.

    Args:
        recipe: the optimizer slot.
        progress: examples seen / examples of the budget, in [0, 1]; the loop passes the middle of
            the batch, so that neither the first nor the last step is wasted on a rate of zero.
    """
    if progress < recipe.warmup:
        return recipe.lr * progress / recipe.warmup
    if recipe.schedule == "constant":
        return recipe.lr
    rest = (progress - recipe.warmup) / (1.0 - recipe.warmup)
    return recipe.lr * 0.5 * (1.0 + math.cos(math.pi * rest))


def prior_form(recipe: Recipe) -> Literal["penalty", "decoupled"]:
    """How the prior acts: as the optimizer's own weight decay does, unless the recipe says."""
    if recipe.prior.form != "auto":
        return recipe.prior.form
    return "decoupled" if recipe.optimizer.name == "adamw" else "penalty"


def build_prior(model: nn.Module, recipe: Recipe) -> LocoReg | None:
    """The term that decays the convolutions, or None where the optimizer's own decay does.

    With clipping, the penalty also carries the uniform law: it is clipped with the gradient, the
    optimizer's own decay is not, and arms must differ by the law alone.
    """
    prior, strength = recipe.prior, _strength(recipe)
    clipped = recipe.optimizer.clip is not None and prior_form(recipe) == "penalty"
    if strength == 0 or (prior.law == "uniform" and prior.strength is None and not clipped):
        return None
    if prior.law == "uniform":
        return LocoReg(model, strength, floor=1.0)
    return LocoReg(model, strength, prior.law, prior.floor, control=prior.control, seed=recipe.seed)


def build_optimizer(
    model: nn.Module, recipe: Recipe, prior: LocoReg | None
) -> torch.optim.Optimizer:
    """SGD or AdamW in their fused form, with each tensor decayed by exactly one of two."""
    slot = recipe.optimizer
    if prior is not None or (recipe.prior.strength == 0.0):
        groups = LocoReg.param_groups(model, slot.weight_decay)
    else:
        trainable = [p for p in model.parameters() if p.requires_grad]
        groups = [{"params": trainable, "weight_decay": slot.weight_decay}]
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    optimizer: torch.optim.Optimizer
    if slot.name == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=slot.lr, fused=fused)
    else:
        optimizer = torch.optim.SGD(
            groups,
            lr=slot.lr,
            momentum=slot.momentum,
            nesterov=slot.nesterov and slot.momentum > 0,
            fused=fused,
        )
    if prior is not None:
        prior.check_optimizer(optimizer)
    return optimizer


@torch.no_grad()
def shape_filters_(model: nn.Module, recipe: Recipe) -> None:
    """Turns the network's own initial filters into a draw from the prior, in place.

    The independent taps of a fresh filter are scaled by the square root of the prior's variance
    profile (1 / cost, mean 1). The layer keeps its total variance and two arms keep the same
    underlying random numbers, so that only the profile differs.
    """
    prior = recipe.prior
    if not prior.init or prior.law == "uniform":
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            size = (module.kernel_size[0], module.kernel_size[1])
            costs = tap_costs(
                size, prior.law, prior.init_floor, control=prior.control, seed=recipe.seed
            )
            variance = 1.0 / costs
            module.weight.mul_((variance / variance.mean()).sqrt().to(module.weight))


def _strength(recipe: Recipe) -> float:
    if recipe.prior.strength is not None:
        return recipe.prior.strength
    return recipe.optimizer.weight_decay / 2
