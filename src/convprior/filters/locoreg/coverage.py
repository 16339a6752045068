"""Which layers a LocoReg covers and what their taps cost, computed once and shown by its repr."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from convprior.errors import InputError
from convprior.filters.laws import Control, Law, check_law, costs_of_shape, tap_costs
from convprior.filters.locoreg.full_precision import precision_matrix
from convprior.filters.prior.assignment import Priors, assign_priors
from convprior.filters.prior.filter_prior import FilterPrior
from convprior.filters.selection import (
    ConvLayer,
    Schedule,
    Selection,
    convolutions_of,
    layers_of,
    schedule_factors,
    select_convolutions,
    unwrap,
)

_SHOWN = 40  # layers in a repr


@dataclass(frozen=True)
class Covered:
    """One convolution and the costs of its taps.

    Attributes:
        layer: the convolution.
        costs: ``factor * c``, float64 of the kernel's shape; for correlated taps the diagonal of
            ``factor * A``.
        matrix: ``factor * A``, (taps, taps), float64; None where the taps are uncorrelated.
        kind: equal for layers with equal costs, so that they can share what depends on them.
        least: the cheapest tap's cost, or the smallest eigenvalue of ``matrix``.
        largest: the dearest tap's cost, or the largest eigenvalue of ``matrix``.
    """

    layer: ConvLayer
    costs: Tensor
    matrix: Tensor | None
    kind: int
    least: float
    largest: float

    @property
    def is_plain(self) -> bool:
        """Whether every cost is 1: plain L2."""
        return self.matrix is None and self.least == self.largest == 1.0

    def precision(self) -> Tensor:
        """``factor * A``, (taps, taps); ``A = diag(c)`` where the taps are uncorrelated."""
        return self.costs.flatten().diag() if self.matrix is None else self.matrix.clone()


def covered_layers(
    model: nn.Module, law: Law | Priors, include: Selection, exclude: Selection
) -> tuple[list[ConvLayer], Law | dict[str, FilterPrior]]:
    """The layers that a law or priors cover; with them the law's name, or each layer's prior.

    Raises:
        InputError: as :func:`select_convolutions` and :func:`assign_priors`, or ``law`` is neither.
    """
    if not isinstance(law, FilterPrior | Mapping):
        check_law(law, ", or give a FilterPrior or a mapping from layers to them")
        return select_convolutions(model, include, exclude), law
    priors = assign_priors(convolutions_of(model), law)
    return select_convolutions(model, include, exclude, priors), priors


def cover(
    layers: list[ConvLayer],
    law: Law | Mapping[str, FilterPrior],
    floor: float,
    *,
    control: Control | None,
    seed: int,
    parameter: float | None,
    pixels: bool,
    schedule: Schedule,
) -> list[Covered]:
    """Gives each layer its costs; arguments as in :class:`convprior.filters.LocoReg`.

    Here ``law`` is a law's name, or the prior of each layer by the layer's name.

    Raises:
        InputError: an argument is out of its range.
    """
    if not isinstance(law, str) and (parameter is not None or pixels):
        given = "parameter" if parameter is not None else "distance"
        raise InputError(f"a FilterPrior has no {given}; leave it out")
    kinds: dict[Any, Covered] = {}
    found = []
    for layer, factor in zip(layers, schedule_factors(layers, schedule), strict=True):
        size = tuple(layer.module.kernel_size)
        dilation = tuple(layer.module.dilation) if pixels else (1,) * len(size)
        prior = None if isinstance(law, str) else law[layer.name]
        key = (size, dilation, factor, prior)
        if key not in kinds:
            if isinstance(law, str):
                costs = tap_costs(
                    size,
                    law,
                    floor,
                    parameter=parameter,
                    control=control,
                    seed=seed,
                    dilation=dilation,
                )
                kinds[key] = _diagonal(layer, factor * costs, len(kinds))
            else:
                kinds[key] = _of_prior(
                    layer, law[layer.name], factor, floor, control, seed, len(kinds)
                )
        found.append(replace(kinds[key], layer=layer))
    return found


def _diagonal(layer: ConvLayer, costs: Tensor, kind: int) -> Covered:
    return Covered(layer, costs, None, kind, float(costs.min()), float(costs.max()))


def _of_prior(
    layer: ConvLayer,
    prior: FilterPrior,
    factor: float,
    floor: float,
    control: Control | None,
    seed: int,
    kind: int,
) -> Covered:
    if prior.is_diagonal:
        costs = costs_of_shape(1.0 / prior.variance, floor, control=control, seed=seed)
        if control == "reversed":
            # The prior's own floor, its cheapest tap, is plain L2 and has no order to turn around.
            ahead = costs_of_shape(1.0 / prior.variance)
            least = float(ahead.min())
            whole = least + (1.0 - least) * floor
            costs = costs_of_shape(ahead - least, min(whole, 1.0), control=control)
        return _diagonal(layer, factor * costs, kind)
    try:
        matrix = factor * precision_matrix(prior, floor, control=control, seed=seed)
    except InputError as error:
        raise InputError(f"layer {layer.name!r}: {error}") from None
    costs = matrix.diagonal().reshape(prior.kernel_size).clone()
    if torch.equal(matrix, matrix.diagonal().diag()):  # floor=1: plain L2
        return _diagonal(layer, costs, kind)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    return Covered(layer, costs, matrix, kind, float(eigenvalues[0]), float(eigenvalues[-1]))


def other_convolutions(model: nn.Module, layers: Sequence[ConvLayer]) -> list[ConvLayer]:
    """The convolutions whose weight is none of those of ``layers``."""
    covered = {id(tensor) for layer in layers for tensor in layer.tensors()}
    everything = layers_of(convolutions_of(model))
    return [layer for layer in everything if covered.isdisjoint(map(id, layer.tensors()))]


def uncovered_layers(model: nn.Module, layers: Sequence[ConvLayer]) -> list[str]:
    """Names of the modules that own a weight matrix or filter bank and are not covered."""
    covered = {id(layer.module) for layer in layers}
    names = []
    for name, module in unwrap(model).named_modules():
        weight = module._parameters.get("weight")
        if weight is not None and weight.ndim > 1 and id(module) not in covered:
            names.append(name.replace("_orig_mod.", ""))
    return names


def describe(head: str, covered: Sequence[Covered], uncovered: Sequence[str]) -> str:
    """One line a layer: name, type, kernel size, range of its costs; then what is left out."""
    lines = [f"{head} covers {len(covered)} convolutions:"]
    width = max(len(item.layer.name) for item in covered)
    for item in covered[:_SHOWN]:
        module = item.layer.module
        size = "x".join(str(k) for k in module.kernel_size)
        costs = f"c = {item.least:.4g} to {item.largest:.4g}"
        if item.matrix is not None:
            costs = (
                f"filters decay {item.least:.4g} to {item.largest:.4g} times as much as plain L2"
            )
        elif item.least == item.largest:
            costs = f"c = {item.least:.4g} (plain L2)"
        note = "; parametrized: penalty only" if item.layer.parametrized else ""
        frozen = "" if module.weight.requires_grad else "; frozen"
        bases = type_before_parametrizations(module).__mro__
        kind = next(base for base in bases if base.__module__.startswith("torch.nn.")).__name__
        lines.append(f"  {item.layer.name:<{width}}  {kind} {size}, {costs}{note}{frozen}")
    if len(covered) > _SHOWN:
        lines.append(f"  and {len(covered) - _SHOWN} more")
    if uncovered:
        lines.append(f"  not covered: {', '.join(uncovered)}")
    return "\n".join(lines)
