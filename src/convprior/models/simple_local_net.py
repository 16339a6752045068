"""Three 3x3 layers and a global mean: where the place of local connectivity can be studied.

Paper: G. Elsayed, P. Ramachandran, J. Shlens, S. Kornblith, "Revisiting Spatial Invariance with
Low-Rank Local Connectivity", ICML 2020 (arXiv 2002.02959).

Reference code: ``SimpleNetwork`` of google-research/low_rank_local_connectivity; the counts of its
parameters are ours.

Differences: convolutions start from He's normal law, the reference's from the uniform one of the
same variance.
"""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.local import LocalConv2d, LowRankLocalConv2d
from convprior.models.he import HeConv2d

Layer = Literal["conv", "local"] | int
_DEPTH = 3
_KERNEL = 3


class SimpleLocalNet(nn.Module):
    """``[3x3 valid, batch normalization, ReLU] x 3, mean, linear`` for images from 7 px.

    Nothing but the three layers can tell positions apart: there is no pooling between them and no
    padding, and the mean forgets where a feature was. Their outputs shrink by 2 px each.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        small_input: no meaning here, every size is treated alike; accepted as in other networks.
        width: channels ``F`` of every layer.
        layers: type of each: ``"conv"``, ``"local"`` (own filters at every position), or the rank
            of a :class:`~convprior.local.LowRankLocalConv2d`.
        input_size: height and width of the images, needed if a layer is not ``"conv"``.
        wide: ``(layer, rank)``, the control of a low-rank layer 1, 2 or 3: all three are
            convolutions, but this one has as many more filters as give the parameters of that rank
            (:func:`wide_width`).

    Raises:
        InputError: an unknown type of layer, no ``input_size``, or ``wide`` names no layer.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        small_input: bool = False,  # noqa: ARG002 - part of every network's signature
        *,
        width: int = 64,
        layers: Sequence[Layer] = ("conv", "conv", "conv"),
        input_size: tuple[int, int] | None = None,
        wide: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if len(layers) != _DEPTH:
            raise InputError(f"layers={layers!r} must name {_DEPTH} layers, one type each")
        channels = [in_chans, width, width, width]
        if wide is not None:
            position, rank = _checked(wide)
            last = position == _DEPTH
            channels[position] = wide_width(channels[position - 1], width, rank, last=last)
        for index, layer in enumerate(layers):
            pair = (channels[index], channels[index + 1])
            size = input_size and cast("tuple[int, int]", tuple(n - 2 * index for n in input_size))
            self.add_module(f"conv{index + 1}", _layer(layer, *pair, size))
            self.add_module(f"norm{index + 1}", nn.BatchNorm2d(pair[1]))
        self.fc = nn.Linear(channels[_DEPTH], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (n, in_chans, h, w) to logits (n, num_classes).

        Raises:
            InputError: an image is smaller than 7 px.
        """
        least = _DEPTH * (_KERNEL - 1) + 1
        if min(x.shape[-2:]) < least:
            raise InputError(
                f"an image of {x.shape[-2]}x{x.shape[-1]} px vanishes in {_DEPTH} layers without "
                f"padding; give at least {least} px"
            )
        for index in range(1, _DEPTH + 1):
            layer, norm = self.get_submodule(f"conv{index}"), self.get_submodule(f"norm{index}")
            x = torch.relu_(norm(layer(x)))
        return cast("Tensor", self.fc(x.mean((2, 3))))


def wide_width(in_channels: int, channels: int, rank: int, *, last: bool = False) -> int:
    """Filters of a convolution with the parameters of a low-rank layer, the next one counted.

    A low-rank layer has ``K C F`` weights for a kernel's tap and the next convolution ``F F``. A
    convolution of ``V`` filters and its successor have ``C V + V F``, hence
    ``V = int((K C + F) / (C + F) F)``. After the last layer there is no such successor: ``K F``.

    Args:
        in_channels: ``C``.
        channels: ``F`` of this layer and of the next.
        rank: ``K`` of the low-rank layer to match.
        last: whether no convolution follows.

    Example:
        >>> [wide_width(64, 64, rank) for rank in (1, 2, 4)]
        [64, 96, 160]
    """
    if last:
        return rank * channels
    return (rank * in_channels + channels) * channels // (in_channels + channels)


def _layer(
    layer: Layer, in_channels: int, channels: int, input_size: tuple[int, int] | None
) -> nn.Module:
    if layer == "conv":
        return HeConv2d(in_channels, channels, _KERNEL, bias=False)
    if layer != "local" and (not isinstance(layer, int) or isinstance(layer, bool)):
        raise InputError(f"layer type {layer!r} must be 'conv', 'local', or a rank, for example 4")
    if input_size is None:
        raise InputError(
            f"a layer of type {layer!r} has weights for every position; give input_size=(height, "
            "width) of the images"
        )
    if layer == "local":
        # The authors' (Keras') layer keeps its bias in front of a normalization; it is a map.
        return LocalConv2d(in_channels, channels, _KERNEL, input_size=input_size)
    return LowRankLocalConv2d(
        in_channels, channels, _KERNEL, bias=False, input_size=input_size, rank=layer
    )


def _checked(wide: tuple[int, int]) -> tuple[int, int]:
    position, rank = wide
    if position not in range(1, _DEPTH + 1) or rank < 1:
        raise InputError(
            f"wide={wide!r} must be a layer from 1 to {_DEPTH} and a rank of at least 1"
        )
    return position, rank
