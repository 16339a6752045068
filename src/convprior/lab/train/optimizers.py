"""The optimizer of a recipe and its learning rate."""

import math

import torch
from torch import nn

from convprior.filters import LocoReg
from convprior.filters.locoreg.double_decay import undecayed_tables
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


def build_optimizer(
    model: nn.Module, recipe: Recipe, prior: LocoReg | None
) -> torch.optim.Optimizer:
    """SGD or AdamW in their fused form, with each tensor decayed by exactly one of two."""
    slot = recipe.optimizer
    if prior is not None or (recipe.prior.strength == 0.0):
        groups = LocoReg.param_groups(model, slot.weight_decay)
    else:
        trainable = [p for p in model.parameters() if p.requires_grad]
        tables = [p for p in undecayed_tables(model) if p.requires_grad]
        kept = {id(table) for table in tables}
        decayed = [p for p in trainable if id(p) not in kept]
        groups = [{"params": decayed, "weight_decay": slot.weight_decay}]
        if tables:
            groups.append({"params": tables, "weight_decay": 0.0})
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
