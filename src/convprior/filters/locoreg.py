"""LocoReg: weight decay that depends on the position of a weight within its filter.

Idea: J. Schneider, "Locality-Promoting Representation Learning" (arXiv 1905.10661, ICPR 2020).
No code of the authors is known and the formula is not in the public text, so the costs
(:mod:`convprior.filters.laws`) and the ways of applying them are our choice.
"""

import math
from collections import defaultdict
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from convprior.errors import InputError
from convprior.filters.coverage import (
    Covered,
    cover,
    describe,
    law_kernel_size,
    uncovered_layers,
)
from convprior.filters.double_decay import refuse_double_decay, undecayed_groups
from convprior.filters.laws import Control, Law
from convprior.filters.multi_tensor import local, tile, tile_key, weighted_squares
from convprior.filters.prior import FilterPrior
from convprior.filters.rates import Rate, rates_of, shrinkage
from convprior.filters.selection import Schedule, Selection, select_convolutions


class LocoReg:
    r"""Position-aware weight decay for every convolution of a model.

    ``penalty = strength * sum over layers of factor * sum_{o,i,u,v} c[u,v] w[o,i,u,v]^2`` with
    the costs ``c`` of :func:`convprior.filters.tap_costs` (mean 1). Its gradient is
    ``2 strength c w``, so ``strength`` equals half the ``weight_decay`` of ``torch.optim.SGD``
    and the ``l`` of Keras' ``l2(l)``. Three ways to apply it, once per optimizer step:

    - add ``reg()`` to the loss;
    - ``reg.add_gradient_()`` between backward and the optimizer's step: the same gradient, no
      graph (after unscaling by a GradScaler, before clipping);
    - ``reg.decay_(lr)`` just before the optimizer's step: the decoupled form, ``w *= 1 - 2 lr
      strength c``, AdamW's order.

    The optimizer's own weight decay must be 0 on the covered weights: build its groups with
    :meth:`param_groups`, or have :meth:`check_optimizer` look. Biases, normalization and linear
    layers are never touched; weights with ``requires_grad=False`` are left out while frozen; a
    tied weight counts once. With a parametrized weight (weight norm, low rank) the penalty acts
    on the effective weight, and the other two forms raise.

    Args:
        model: compiled and data-parallel wrappers are looked through.
        strength: lambda, >= 0; the attribute may be changed between steps.
        law: a law's name, or a :class:`FilterPrior` whose variances give ``c = 1 / variance`` for
            the layers of its kernel size (correlations do not enter; see
            :meth:`FilterPrior.penalty` for those).
        floor: share of plain L2, in [0, 1].
        control: None, ``reversed`` or ``permuted``, the controls of a fair comparison.
        seed: of the permutation.
        parameter: of the law.
        distance: ``taps``, or ``pixels`` to count a layer's dilation.
        include: names, patterns, parents' names or module types; None means every convolution.
        exclude: the same, taken away.
        schedule: factors on the strength: a mapping from names or patterns (others keep 1), or a
            function of the relative depth in [0, 1], such as ``lambda t: 1 - t``.

    Raises:
        InputError: no layer matches, or an argument is out of its range.

    Example:
        >>> reg = LocoReg(torch.nn.Conv2d(3, 8, 3), strength=2.5e-4)
        >>> reg().shape
        torch.Size([])

    Source: our choice (see above); ``decay_`` with ``floor=1`` is ``torch.optim.AdamW``'s decay.
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        law: Law | FilterPrior = "quadratic",
        floor: float = 0.0,
        *,
        control: Control | None = None,
        seed: int = 0,
        parameter: float | None = None,
        distance: Literal["taps", "pixels"] = "taps",
        include: Selection = None,
        exclude: Selection = None,
        schedule: Schedule = None,
    ) -> None:
        if not 0.0 <= strength < math.inf:
            raise InputError(f"strength is {strength}; give a finite number >= 0")
        if distance not in ("taps", "pixels"):
            raise InputError(f"distance is {distance!r}; choose 'taps' or 'pixels'")
        layers = select_convolutions(model, include, exclude, law_kernel_size(law))
        self.strength = strength
        self._covered = cover(
            layers,
            law,
            floor,
            control=control,
            seed=seed,
            parameter=parameter,
            pixels=distance == "pixels",
            schedule=schedule,
        )
        self._uncovered = uncovered_layers(model, layers)
        self._settings = f"law={law!r}, floor={floor}"
        if control is not None:
            self._settings += f", control={control!r}"
        self._tiles: dict[Any, Tensor] = {}
        self._factors: dict[Any, Tensor] = {}
        self._factors_of: Any = None

    @property
    def costs(self) -> dict[str, Tensor]:
        """Name of each covered layer -> its costs ``factor * c``, float64 of the kernel's shape."""
        return {item.layer.name: item.costs.clone() for item in self._covered}

    def __call__(self) -> Tensor:
        """The penalty, a scalar to add to the loss.

        Returns:
            ``strength * sum c w^2`` over the covered weights that require a gradient, on the
            device of the first; float32 for half-precision weights. Under FSDP a layer that is
            sharded at the time counts with this process's filters; the gradient is right anyhow.

        Source: our choice.
        """
        groups = defaultdict(list)
        for item, whole in self._trainable():
            weight = local(whole)
            groups[weight.device, weight.dtype].append((item, weight))
        totals = []
        for members in groups.values():
            weights = [weight for _, weight in members]
            tiles = [self._tile(item, weight) for item, weight in members]
            roots = [self._tile(item, weight, root=True) for item, weight in members]
            totals.append(weighted_squares(weights, tiles, roots))
        if not totals:
            return torch.zeros((), device=self._covered[0].layer.module.weight.device)
        total = totals[0]
        for other in totals[1:]:
            total = total + other.to(total.device)
        return self.strength * total

    @torch.no_grad()
    def add_gradient_(self) -> None:
        """Adds ``2 strength c w`` to the gradients: what backward of the penalty would add.

        Call it once per optimizer step, after backward (and ``GradScaler.unscale_``), before
        clipping. A weight without a gradient gets one.

        Raises:
            InputError: a covered weight is parametrized; add the penalty to the loss instead.

        Source: our choice.
        """
        gradients, weights, tiles = [], [], []
        for item, weight in self._trainable(in_place=True):
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            gradients.append(local(weight.grad))
            weights.append(local(weight))
            tiles.append(self._tile(item, weights[-1]))
        if weights:
            torch._foreach_addcmul_(gradients, weights, tiles, value=2.0 * self.strength)

    @torch.no_grad()
    def decay_(self, lr: Rate | Optimizer) -> None:
        """Shrinks each tap, ``w *= 1 - 2 lr strength c``: the decoupled form.

        Call it just before the optimizer's step. With ``floor=1`` the pair equals
        ``torch.optim.AdamW`` with ``weight_decay = 2 * strength`` bit for bit.

        Args:
            lr: the learning rate in force at this step, or the optimizer, whose groups may have
                different ones. A rate that is a tensor on an accelerator is used there without
                waiting for it, and so without the check below.

        Raises:
            InputError: ``2 lr strength max(c) >= 1`` (a tap would vanish or change its sign), a
                covered weight is parametrized, or the optimizer does not hold one.

        Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019), per
        tap: our choice.
        """
        members = self._trainable(in_place=True)
        rates = rates_of(lr, members)
        on_device = any(isinstance(rate, Tensor) for rate in rates)
        factors_of = None if on_device else (self.strength, frozenset(rates))
        if factors_of is None or factors_of != self._factors_of:
            # Factors of earlier rates are of no use once a schedule has moved on, and a rate on an
            # accelerator may have changed unseen.
            self._factors.clear()
            self._factors_of = factors_of
        weights = [local(weight) for _, weight in members]
        factors = [
            self._factor(item, weight, rate)
            for (item, _), weight, rate in zip(members, weights, rates, strict=True)
        ]
        if weights:
            torch._foreach_mul_(weights, factors)

    @staticmethod
    def param_groups(
        model: nn.Module,
        weight_decay: float,
        *,
        law: Law | FilterPrior = "quadratic",
        include: Selection = None,
        exclude: Selection = None,
    ) -> list[dict[str, Any]]:
        """Optimizer groups without double decay: covered weights get 0, the rest what you ask.

        Args:
            model: the model.
            weight_decay: for every parameter that LocoReg does not cover.
            law: as given to LocoReg; only a :class:`FilterPrior` changes the selection.
            include: as given to LocoReg.
            exclude: as given to LocoReg.

        Returns:
            Two dicts with ``params`` and ``weight_decay``, for any ``torch.optim`` optimizer.

        Raises:
            InputError: no layer matches.

        Example:
            >>> groups = LocoReg.param_groups(torch.nn.Conv2d(3, 8, 3), weight_decay=5e-4)
            >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
            [(1, 0.0), (1, 0.0005)]
        """
        layers = select_convolutions(model, include, exclude, law_kernel_size(law))
        return undecayed_groups(model, layers, weight_decay)

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Looks for double decay: the optimizer must have ``weight_decay = 0`` on covered weights.

        Raises:
            InputError: it has not; the message names the weight and the optimizer's group.
        """
        refuse_double_decay(optimizer, [item.layer for item in self._covered])

    def __repr__(self) -> str:
        head = f"LocoReg(strength={self.strength}, {self._settings})"
        return describe(head, self._covered, self._uncovered)

    def _trainable(self, *, in_place: bool = False) -> list[tuple[Covered, Tensor]]:
        members = []
        for item in self._covered:
            if item.layer.parametrized and in_place:
                raise InputError(
                    f"the weight of {item.layer.name!r} is parametrized, so it cannot be changed "
                    "in place; add the penalty reg() to the loss, or exclude the layer"
                )
            weight = item.layer.module.weight
            if any(tensor.requires_grad for tensor in item.layer.tensors()):
                members.append((item, weight))
        return members

    def _tile(self, item: Covered, weight: Tensor, *, root: bool = False) -> Tensor:
        key = (item.kind, root, tile_key(weight))
        found = self._tiles.get(key)
        if found is None:
            found = tile(item.costs.sqrt() if root else item.costs, weight)
            self._tiles[key] = found
        return found

    def _factor(self, item: Covered, weight: Tensor, rate: Rate) -> Tensor:
        key = (item.kind, rate, tile_key(weight))
        found = self._factors.get(key)
        if found is None:
            found = tile(shrinkage(item, self.strength, rate), weight)
            self._factors[key] = found
        return found
