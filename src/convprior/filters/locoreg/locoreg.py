"""LocoReg: weight decay that depends on the position of a weight within its filter.

Idea: J. Schneider, "Locality-Promoting Representation Learning" (arXiv 1905.10661, ICPR 2020).
No code of the authors is known and the formula is not in the public text, so the costs
(:mod:`convprior.filters.laws`) and the ways of applying them are our choice.
"""

# Annotations stay text, so that help() shows the names of the types and not what they are made of.
from __future__ import annotations

import math
from collections import defaultdict
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from convprior.errors import InputError
from convprior.filters.laws import Control, Law, is_number
from convprior.filters.locoreg.coverage import (
    Covered,
    cover,
    covered_layers,
    describe,
    other_convolutions,
    uncovered_layers,
)
from convprior.filters.locoreg.double_decay import (
    refuse_double_decay,
    refuse_lost_decay,
    undecayed_groups,
)
from convprior.filters.locoreg.full_precision import shrink_
from convprior.filters.locoreg.multi_tensor import local
from convprior.filters.locoreg.prepared import Prepared
from convprior.filters.locoreg.rates import Rate, amount, rates_of
from convprior.filters.prior.assignment import Priors
from convprior.filters.prior.filter_prior import FilterPrior
from convprior.filters.selection import Schedule, Selection


class LocoReg:
    r"""Position-aware weight decay for every convolution of a model.

    ``penalty = strength * sum over layers of factor * sum over filters of w' A w``. For a law
    ``A = diag(c)`` with the costs ``c`` of :func:`convprior.filters.tap_costs` (mean 1): ``sum c
    w^2``. For a :class:`FilterPrior` ``A = Sigma^-1``, scaled to ``trace(A) = taps``: again ``sum
    c w^2`` where its taps are uncorrelated (``c`` proportional to 1 / variance), else the
    smooth-kernel penalty. The gradient is ``2 strength A w``, so ``strength`` equals half the
    ``weight_decay`` of ``torch.optim.SGD`` and the ``l`` of Keras' ``l2(l)``. Three ways to apply
    it, once per optimizer step:

    - add ``reg()`` to the loss;
    - ``reg.add_gradient_()`` between backward and the optimizer's step: the same gradient, no
      graph (after unscaling by a GradScaler, before clipping);
    - ``reg.decay_(optimizer)`` just before the optimizer's step: the decoupled form, ``w -= 2 lr
      strength A w``, AdamW's order. In a loop that is not yours, or with a GradScaler, which may
      skip the step: ``optimizer.register_step_pre_hook(lambda opt, *_: reg.decay_(opt))``.

    The optimizer's own weight decay must be 0 on the covered weights: build its groups with
    :meth:`param_groups`, or have :meth:`check_optimizer` look. Biases, normalization and linear
    layers are never touched; weights with ``requires_grad=False`` are left out while frozen; a
    tied weight counts once. With a parametrized weight (weight norm, low rank) the penalty acts
    on the effective weight, and the other two forms raise.

    Args:
        model: compiled and data-parallel wrappers are looked through.
        strength: lambda, >= 0; the attribute may be changed between steps.
        law: a law's name; or a :class:`FilterPrior` for the layers of its kernel size; or a
            mapping from layer names, patterns or kernel sizes (``"3x3"``) to priors, a name
            before a pattern before a size. Layers that no prior fits are left to the optimizer's
            own decay, here and in :meth:`param_groups`.
        floor: share of plain L2, in [0, 1]: ``floor I + (1 - floor) A``.
        control: None, ``reversed`` (the order turned around) or ``permuted`` (the same costs in
            other places), the controls of a fair comparison; a prior with correlations can only
            be permuted, and another one keeps its least cost as a floor.
        seed: of the permutation.
        parameter: of the law.
        distance: ``taps``, or ``pixels`` to count a layer's dilation.
        include: names, patterns, parents' names or module types; None means every convolution.
        exclude: the same, taken away.
        schedule: factors on the strength: a mapping from names or patterns (others keep 1), or a
            function of the relative depth in [0, 1], such as ``lambda t: 1 - t``.

    Raises:
        InputError: no layer matches, a prior is singular, or an argument is out of its range.

    Example:
        >>> reg = LocoReg(torch.nn.Conv2d(3, 8, 3), strength=2.5e-4)
        >>> reg().shape
        torch.Size([])

    Source: our choice (see above); the full precision is the penalty of Feinman and Lake (arXiv
    1903.01882) with another scale; ``decay_`` with ``floor=1`` is ``torch.optim.AdamW``'s decay.
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        law: Law | Priors = "quadratic",
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
        if distance not in ("taps", "pixels"):
            raise InputError(f"distance is {distance!r}; choose 'taps' or 'pixels'")
        layers, law_or_priors = covered_layers(model, law, include, exclude)
        self.strength = strength
        self._covered = cover(
            layers,
            law_or_priors,
            floor,
            control=control,
            seed=seed,
            parameter=parameter,
            pixels=distance == "pixels",
            schedule=schedule,
        )
        self._others = other_convolutions(model, layers)
        self._uncovered = uncovered_layers(model, layers)
        shown = repr(law) if isinstance(law, str | FilterPrior) else f"{len(law)} priors"
        self._settings = f"law={shown}, floor={floor}"
        if control is not None:
            self._settings += f", control={control!r}"
        self._prepared = Prepared()

    @property
    def strength(self) -> float:
        """Lambda, a finite number >= 0; assignment checks that."""
        return self._strength

    @strength.setter
    def strength(self, strength: float) -> None:
        if not is_number(strength) or not 0.0 <= strength < math.inf:
            raise InputError(f"strength is {strength!r}; give a finite number >= 0")
        self._strength = strength

    @property
    def costs(self) -> dict[str, Tensor]:
        """Name of each covered layer -> its costs ``factor * c``, float64 of the kernel's shape.

        For a prior with correlations, the diagonal of ``factor * A``.
        """
        return {item.layer.name: item.costs.clone() for item in self._covered}

    @property
    def precisions(self) -> dict[str, Tensor]:
        """Name of each covered layer -> ``factor * A``, float64, (taps, taps)."""
        return {item.layer.name: item.precision() for item in self._covered}

    def __call__(self) -> Tensor:
        """The penalty, a scalar to add to the loss.

        Returns:
            ``strength * sum w' A w`` over the covered weights that require a gradient, on the
            device of the first; float32 for half-precision weights. Under FSDP a layer that is
            sharded at the time counts with this process's filters; the gradient is right anyhow.

        Source: our choice.
        """
        groups = defaultdict(list)
        for item, whole in self._trainable():
            weight = local(whole)
            groups[weight.device, weight.dtype, item.matrix is None].append((item, weight))
        totals = [self._prepared.squares(members) for members in groups.values()]
        if not totals:
            return torch.zeros((), device=self._covered[0].layer.module.weight.device)
        total = totals[0]
        for other in totals[1:]:
            total = total + other.to(total.device)
        return self.strength * total

    @torch.no_grad()
    def add_gradient_(self) -> None:
        """Adds ``2 strength A w`` to the gradients: what backward of the penalty would add.

        Call it once per optimizer step, after backward (and ``GradScaler.unscale_``), before
        clipping. A weight without a gradient gets one.

        Raises:
            InputError: a covered weight is parametrized; add the penalty to the loss instead.

        Source: our choice.
        """
        members = []
        for item, whole in self._trainable(in_place=True):
            if whole.grad is None:
                whole.grad = torch.zeros_like(whole)
            members.append((item, local(whole.grad), local(whole)))
        self._prepared.add_gradients_(members, 2.0 * self.strength)

    @torch.no_grad()
    def decay_(self, lr: Rate | Optimizer) -> None:
        """Shrinks the filters, ``w -= 2 lr strength A w``: the decoupled form.

        Without correlations each tap is multiplied by ``1 - 2 lr strength c``. Call it just
        before the optimizer's step. With ``floor=1`` the pair equals ``torch.optim.AdamW`` with
        ``weight_decay = 2 * strength`` bit for bit.

        Args:
            lr: the optimizer, whose groups may have different rates and which must not decay the
                weights too; or the learning rate in force at this step, when nobody looks for
                that. A rate that is a tensor on an accelerator is used there without waiting for
                it, and so without the check below.

        Raises:
            InputError: ``2 lr strength`` times the largest cost or eigenvalue of ``A`` is >= 1 (a
                tap or filter would vanish or change its sign), a covered weight is parametrized,
                or the optimizer does not hold one or decays it itself.

        Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019), per
        tap: our choice.
        """
        trainable = self._trainable(in_place=True)
        rates = rates_of(lr, trainable)
        members = [(i, local(w), r) for (i, w), r in zip(trainable, rates, strict=True)]
        single = [member for member in members if member[0].matrix is None]
        joint = [member for member in members if member[0].matrix is not None]
        # Both first look whether a sign would change, so that an error leaves every weight alone.
        factors = self._prepared.factors(single, self.strength)
        amounts = [amount(item, self.strength, rate) for item, _, rate in joint]
        if single:
            torch._foreach_mul_([weight for _, weight, _ in single], factors)
        matrices = [self._prepared.weights_for(item, weight) for item, weight, _ in joint]
        shrink_([weight for _, weight, _ in joint], matrices, amounts)

    @staticmethod
    def param_groups(
        model: nn.Module,
        weight_decay: float,
        *,
        law: Law | Priors = "quadratic",
        include: Selection = None,
        exclude: Selection = None,
    ) -> list[dict[str, Any]]:
        """Optimizer groups without double decay: covered weights get 0, the rest what you ask.

        Args:
            model: the model.
            weight_decay: for every parameter that LocoReg does not cover.
            law: as given to LocoReg; only priors change the selection.
            include: as given to LocoReg.
            exclude: as given to LocoReg.

        Returns:
            Two dicts with ``params`` and ``weight_decay``, for any ``torch.optim`` optimizer, and a
            third without decay for the tables of :mod:`convprior.local`'s layers if there are any.

        Raises:
            InputError: no layer matches.

        Example:
            >>> groups = LocoReg.param_groups(torch.nn.Conv2d(3, 8, 3), weight_decay=5e-4)
            >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
            [(1, 0.0), (1, 0.0005)]
        """
        layers, _ = covered_layers(model, law, include, exclude)
        return undecayed_groups(model, layers, weight_decay)

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Looks for double and for lost decay.

        The optimizer must have ``weight_decay = 0`` on covered weights, and the group that holds
        them no other convolution while the rest of the network decays.

        Raises:
            InputError: it is not so; the message names the weight and the optimizer's group.
        """
        layers = [item.layer for item in self._covered]
        refuse_double_decay(optimizer, layers)
        refuse_lost_decay(optimizer, layers, self._others)

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
            if any(tensor.requires_grad for tensor in item.layer.tensors()):
                members.append((item, item.layer.weight()))
        return members
