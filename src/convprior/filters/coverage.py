"""Which layers a LocoReg covers and what their taps cost, computed once and shown by its repr."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from convprior.errors import InputError
from convprior.filters.laws import Control, Law, costs_of_shape, tap_costs
from convprior.filters.prior import FilterPrior
from convprior.filters.selection import ConvLayer, Schedule, schedule_factors, unwrap

_SHOWN = 40  # layers in a repr


@dataclass(frozen=True)
class Covered:
    """One convolution and the costs of its taps.

    Attributes:
        layer: the convolution.
        costs: ``factor * c``, float64 of the kernel's shape.
        kind: equal for layers with equal costs, so that they can share what depends on them.
        largest: the dearest tap's cost.
    """

    layer: ConvLayer
    costs: Tensor
    kind: int
    largest: float


def cover(
    layers: list[ConvLayer],
    law: Law | FilterPrior,
    floor: float,
    *,
    control: Control | None,
    seed: int,
    parameter: float | None,
    pixels: bool,
    schedule: Schedule,
) -> list[Covered]:
    """Gives each layer its costs; arguments as in :class:`convprior.filters.LocoReg`.

    Raises:
        InputError: an argument is out of its range.
    """
    kinds: dict[Any, Covered] = {}
    found = []
    for layer, factor in zip(layers, schedule_factors(layers, schedule), strict=True):
        size = tuple(layer.module.kernel_size)
        dilation = tuple(layer.module.dilation) if pixels else (1,) * len(size)
        key = (size, dilation, factor)
        if key not in kinds:
            if isinstance(law, FilterPrior):
                costs = costs_of_prior(law, floor, control, seed, parameter)
            else:
                costs = tap_costs(
                    size,
                    law,
                    floor,
                    parameter=parameter,
                    control=control,
                    seed=seed,
                    dilation=dilation,
                )
            costs = factor * costs
            kinds[key] = Covered(layer, costs, len(kinds), float(costs.max()))
        kind = kinds[key]
        found.append(Covered(layer, kind.costs, kind.kind, kind.largest))
    return found


def costs_of_prior(
    prior: FilterPrior,
    floor: float,
    control: Control | None,
    seed: int,
    parameter: float | None,
) -> Tensor:
    """Costs ``c`` proportional to ``1 / variance``, mean 1, of the prior's kernel size.

    Raises:
        InputError: ``parameter`` is given.
    """
    if parameter is not None:
        raise InputError("a FilterPrior has no parameter; leave it out")
    return costs_of_shape(1.0 / prior.variance, floor, control=control, seed=seed)


def law_kernel_size(law: Law | FilterPrior) -> tuple[int, ...] | None:
    """The only kernel size a prior fits; None for a law, which fits all."""
    return law.kernel_size if isinstance(law, FilterPrior) else None


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
        least = float(item.costs.min())
        costs = f"c = {least:.4g} to {item.largest:.4g}"
        if least == item.largest:
            costs = f"c = {least:.4g} (plain L2)"
        note = "; parametrized: penalty only" if item.layer.parametrized else ""
        frozen = "" if module.weight.requires_grad else "; frozen"
        kind = type_before_parametrizations(module).__name__
        lines.append(f"  {item.layer.name:<{width}}  {kind} {size}, {costs}{note}{frozen}")
    if len(covered) > _SHOWN:
        lines.append(f"  and {len(covered) - _SHOWN} more")
    if uncovered:
        lines.append(f"  not covered: {', '.join(uncovered)}")
    return "\n".join(lines)
