"""What LocoReg lays out once for the weights it meets: costs, factors and matrices."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convprior.filters.locoreg.coverage import Covered
from convprior.filters.locoreg.full_precision import (
    add_precision_gradients_,
    lay_out,
    precision_squares,
)
from convprior.filters.locoreg.multi_tensor import tile, tile_key, weighted_squares
from convprior.filters.locoreg.rates import Rate, shrinkage
from convprior.filters.prior.gaussian import symmetric_root


class Prepared:
    """Tensors by layer kind, shape, memory format, dtype and device; equal layers share them."""

    def __init__(self) -> None:
        self._fixed: dict[Any, Tensor] = {}
        self._factors: dict[Any, Tensor] = {}
        self._factors_of: Any = None

    def weights_for(self, item: Covered, weight: Tensor, *, root: bool = False) -> Tensor:
        """Costs or matrix of ``item`` (or their root) as the fast paths want them."""
        key = (item.kind, root, tile_key(weight))
        found = self._fixed.get(key)
        if found is None:
            if item.matrix is None:
                found = tile(item.costs.sqrt() if root else item.costs, weight)
            else:
                found = lay_out(symmetric_root(item.matrix) if root else item.matrix, weight)
            self._fixed[key] = found
        return found

    def squares(self, members: Sequence[tuple[Covered, Tensor]]) -> Tensor:
        """The penalty of weights of one dtype, device and form, before the strength."""
        weights = [weight for _, weight in members]
        whole = [self.weights_for(item, weight) for item, weight in members]
        roots = [self.weights_for(item, weight, root=True) for item, weight in members]
        add_up = weighted_squares if members[0][0].matrix is None else precision_squares
        return add_up(weights, whole, roots)

    def add_gradients_(
        self, members: Sequence[tuple[Covered, Tensor, Tensor]], scale: float
    ) -> None:
        """``g += scale A w`` for each (layer, gradient g, weight w)."""
        plain = [(g, w) for item, g, w in members if item.is_plain]
        others = [member for member in members if not member[0].is_plain]
        ready = [(g, w, self.weights_for(item, w)) for item, g, w in others]
        single = [ready[i] for i, (item, _, _) in enumerate(others) if item.matrix is None]
        joint = [ready[i] for i, (item, _, _) in enumerate(others) if item.matrix is not None]
        if plain:  # the operation of torch.optim.SGD, bit for bit
            gradients, weights = (list(part) for part in zip(*plain, strict=True))
            torch._foreach_add_(gradients, weights, alpha=scale)
        if single:
            gradients, weights, tiles = (list(part) for part in zip(*single, strict=True))
            torch._foreach_addcmul_(gradients, weights, tiles, value=scale)
        if joint:
            gradients, weights, matrices = (list(part) for part in zip(*joint, strict=True))
            add_precision_gradients_(gradients, weights, matrices, scale)

    def factors(
        self, members: Sequence[tuple[Covered, Tensor, Rate]], strength: float
    ) -> list[Tensor]:
        """``1 - 2 rate strength c`` for each weight, kept while strength and rates stay.

        Raises:
            InputError: a factor would be 0 or negative.
        """
        rates = [rate for _, _, rate in members]
        on_device = any(isinstance(rate, Tensor) for rate in rates)
        factors_of = None if on_device else (strength, frozenset(rates))
        if factors_of is None or factors_of != self._factors_of:
            # Factors of earlier rates are of no use once a schedule has moved on, and a rate on an
            # accelerator may have changed unseen.
            self._factors.clear()
            self._factors_of = factors_of
        factors = []
        for item, weight, rate in members:
            key = (item.kind, rate, tile_key(weight))
            if key not in self._factors:
                self._factors[key] = tile(shrinkage(item, strength, rate), weight)
            factors.append(self._factors[key])
        return factors
