"""The prior slot of a recipe: the term that decays the filters, and their initial weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.filters import FilterPrior, LocoReg, load_priors
from convprior.filters.laws import changing_permutation
from convprior.filters.prior.assignment import assign_priors
from convprior.filters.prior.gaussian import symmetric_root
from convprior.filters.selection import convolutions_of, select_convolutions
from convprior.lab.train.prior_recipe import PriorRecipe, content_digest
from convprior.lab.train.recipe import Recipe


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
    law = prior.law if prior.regularize else "uniform"
    clipped = recipe.optimizer.clip is not None and prior_form(recipe) == "penalty"
    if strength == 0 or (law == "uniform" and prior.strength is None and not clipped):
        return None
    if law == "uniform":
        return LocoReg(model, strength, floor=1.0)
    if law == "correlated" or law == "file":
        priors = layer_priors(model, prior, recipe.seed)
        _refuse_singular(priors, prior)
        return LocoReg(model, strength, priors, prior.floor)
    return LocoReg(model, strength, law, prior.floor, control=prior.control, seed=recipe.seed)


@torch.no_grad()
def shape_filters_(model: nn.Module, recipe: Recipe) -> None:
    """Turns the network's own initial filters into a draw from the prior, in place.

    The independent taps of a fresh filter are multiplied by the symmetric root of the prior's
    covariance (trace = taps). The layer keeps its expected squared norm and two arms keep the same
    underlying random numbers, so that only the prior differs.
    """
    prior = recipe.prior
    if not prior.init or prior.law == "uniform":
        return
    priors = layer_priors(model, prior, recipe.seed)
    for layer in select_convolutions(model):
        weight, mine = layer.module.weight, priors[layer.name]
        if mine.is_diagonal:
            weight.mul_(mine.variance.sqrt().to(weight))
        else:
            root = symmetric_root(mine.covariance).to(weight)
            weight.copy_((weight.reshape(-1, len(root)) @ root).view_as(weight))


def layer_priors(model: nn.Module, prior: PriorRecipe, seed: int) -> dict[str, FilterPrior]:
    """The prior of every convolution of a model, by its name.

    Raises:
        InputError: the file of priors has another content than the recipe was made with, or does
            not fit this network.
    """
    modules = {layer.name: layer.module for layer in select_convolutions(model)}
    found = _from_file(model, prior) if prior.law == "file" else {}
    sizes = {name: tuple(module.kernel_size) for name, module in modules.items()}
    priors = {name: _layer_prior(sizes[name], prior, found.get(name), seed) for name in modules}
    if prior.control is None or prior.law not in ("correlated", "file"):
        return priors
    controls = {name: permuted(mine, seed) for name, mine in priors.items()}
    if controls == priors:
        raise InputError(
            f"prior.control = {prior.control!r} changes nothing, because all taps of this prior "
            "are alike; choose another prior, or leave the control out"
        )
    return controls


def _layer_prior(
    size: tuple[int, ...], prior: PriorRecipe, measured: FilterPrior | None, seed: int
) -> FilterPrior:
    if prior.law == "file":
        mine = measured or FilterPrior.independent(size)
        return mine.uncorrelated() if prior.uncorrelated else mine
    if prior.law == "correlated":
        return FilterPrior.correlated(size, prior.family, prior.lengthscale)
    if prior.law == "uniform":
        return FilterPrior.independent(size)
    floor, control = prior.init_floor, prior.control
    return FilterPrior.locality(size, prior.law, floor, control=control, seed=seed)


def _from_file(model: nn.Module, prior: PriorRecipe) -> dict[str, FilterPrior]:
    assert prior.file is not None
    if content_digest(prior.file) != prior.digest:
        raise InputError(
            f"prior.file = {prior.file!r} has changed since the recipe was made; restore it, or "
            "start the study in another folder"
        )
    priors = load_priors(Path(prior.file).expanduser())
    try:
        # FilterPrior.save keeps one prior, for all layers of its kernel size.
        return assign_priors(
            convolutions_of(model), priors["prior"] if list(priors) == ["prior"] else priors
        )
    except InputError as error:
        raise InputError(
            f"prior.file = {prior.file!r} does not fit the network: {error}"
        ) from error


def permuted(prior: FilterPrior, seed: int) -> FilterPrior:
    """The control of a measured or correlated prior: the same covariance on shuffled taps.

    A prior that no shuffle changes (equal variances, equal correlations) is returned as it is.
    """
    covariance = prior.covariance
    apart = covariance[~torch.eye(len(covariance), dtype=torch.bool)]
    if all(bool((part == part[:1]).all()) for part in (covariance.diagonal(), apart)):
        return prior

    def changes(order: Tensor) -> bool:
        return not torch.equal(covariance[order][:, order], covariance)

    order = changing_permutation(len(covariance), seed, changes)
    variance = prior.variance.flatten()[order].view(prior.kernel_size)
    return FilterPrior(variance, prior.correlation[order][:, order])


def _refuse_singular(priors: Mapping[str, FilterPrior], slot: PriorRecipe) -> None:
    for name, prior in priors.items():
        if prior.is_singular:
            taps, fix = prior.variance.numel(), "lower prior.lengthscale"
            if slot.law == "file":
                fix = "save it again with `convprior inspect --save-prior --shrinkage 0.1`"
            raise InputError(
                f"the prior of {name!r} is singular (rank {prior.rank} of {taps}), so there is no "
                f"decay by it; {fix}, or only draw from it: regularize = false, init = true"
            )


def _strength(recipe: Recipe) -> float:
    if recipe.prior.strength is not None:
        return recipe.prior.strength
    return recipe.optimizer.weight_decay / 2
