"""The control of local connectivity: a layer that takes its positions for other ones."""

from typing import Any

import torch
from torch import Generator, Tensor

from convprior._random import mix
from convprior.errors import InputError
from convprior.local.layers.two_d import LowRankLocalConv2d


class ShuffledLocalConv2d(LowRankLocalConv2d):
    """A :class:`LowRankLocalConv2d` in which each position uses the tables of another one.

    Parameters, shapes and cost are those of the layer. Position ``p`` has the combining weights
    and the spatial bias of position ``position_order[p]``, a permutation that is drawn once and
    kept in checkpoints. What the layer can gain from knowing *which* positions are near each
    other, in a row or in a column is gone; what it gains from more parameters stays.

    Args:
        *args: as in :class:`LowRankLocalConv2d`.
        shuffle_seed: of the permutation.
        **options: as in :class:`LowRankLocalConv2d`.

    Raises:
        InputError: ``weights="map"``: a permutation of a free table changes nothing.

    Source: our choice.
    """

    position_order: Tensor

    def __init__(self, *args: Any, shuffle_seed: int, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.weights == "map":
            raise InputError(
                "weights is 'map', whose positions are all free, so that their order means nothing "
                "and shuffling them changes nothing; shuffle another mode"
            )
        generator = Generator().manual_seed(mix(shuffle_seed, self.geometry.positions))
        order = torch.randperm(self.geometry.positions, generator=generator)
        self.register_buffer("position_order", order.to(self.weight.device))

    def resize_positions(self, input_size: Any) -> None:
        """Refuses: a shuffled order has no other size.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"positions are shuffled, so their tables cannot become those of {input_size}; make a "
            "new layer"
        )

    def _weights(self, lifted: Tensor | None = None) -> Tensor:
        return self._shuffled(super()._weights(lifted))

    def _spatial_bias(self) -> Tensor | None:
        bias = super()._spatial_bias()
        return None if bias is None else self._shuffled(bias)

    def _shuffled(self, table: Tensor) -> Tensor:
        size = self.geometry.output_size
        flat = table.expand(*table.shape[:-2], *size).flatten(-2)
        return flat[..., self.position_order].reshape(*table.shape[:-2], *size)
