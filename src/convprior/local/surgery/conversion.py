"""A convolution as a local layer with the same function, and back."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from convprior._random import mix
from convprior.errors import InputError
from convprior.filters.prior.redraw import number_of
from convprior.local.layers.combining import Normalize, WeightsMode, first_logit, normalized
from convprior.local.layers.low_rank import LowRankLocalConvNd
from convprior.local.surgery.parametrized import parametrize_bases_
from convprior.local.surgery.replacement import (
    arguments_of,
    drawing,
    local_class,
    memory_format_of,
    mode_of,
)
from convprior.local.surgery.survey import Site

_NOISE = 1
"""Counter of the noise, beside that of a layer's own draw."""


@dataclass(frozen=True)
class Conversion:
    """How convolutions become low-rank local layers.

    Attributes:
        rank: number of bases.
        weights: the mode of the combining weights.
        normalize: of the combining weights.
        spatial_bias: whether there is one.
        relative_noise: see :func:`convprior.local.localize`.
        seed: of the noise.
    """

    rank: int
    weights: WeightsMode = "separable"
    normalize: Normalize = "softmax"
    spatial_bias: bool = True
    relative_noise: float = 1e-2
    seed: int = 0


@torch.no_grad()
def low_rank_of(site: Site, conversion: Conversion) -> LowRankLocalConvNd:
    """A low-rank local layer with the function of a convolution.

    ``B_k = W / (K w) + delta_k`` with ``sum_k delta_k = 0``, where ``w`` is the combining weight
    all bases have in a fresh layer: ``1 / K`` under a softmax, else ``1 / sqrt(K)``. Without a
    softmax the bases together have the squared norm of ``W`` and the mean kernel moves under SGD
    as that of the convolution would.

    A parametrized weight cannot be moved by ``delta_k``. There all bases start equal and the
    combining weights differ, with sum 1 at each position: a mixture of equal kernels is that
    kernel.

    The bias is the same parameter.

    Raises:
        InputError: a parametrized weight that cannot be taken over.
    """
    conv: Any = site.module
    rank, own_seed = conversion.rank, mix(conversion.seed, number_of(site.name))
    if site.parametrized and rank > 1 and conversion.normalize == "l2":
        raise InputError(
            f"{site.name!r} is parametrized, so that its bases start equal, and normalize='l2' "
            "does not mix equal bases to one of them; give 'softmax' or None"
        )
    generator = Generator().manual_seed(mix(conversion.seed, number_of(site.name), _NOISE))
    # The constructor draws, and so do some parametrizations.
    with drawing(conv, own_seed):
        layer: LowRankLocalConvNd = local_class(len(site.input_size), low_rank=True)(
            **arguments_of(conv),
            input_size=site.size_argument,
            rank=rank,
            weights=mode_of(len(site.input_size), conversion.weights),
            normalize=conversion.normalize,
            spatial_bias=conversion.spatial_bias,
        )
        layer.requires_grad_(any(tensor.requires_grad for tensor in site.tensors()))
        if site.parametrized:
            _spread_logits_(layer, conversion, generator)
            parametrize_bases_(layer, site, rank)
        else:
            if conversion.normalize == "softmax":
                for table in _logits(layer):
                    table.zero_()
            total = rank * _first_weight(layer)
            bases = _spread(conv.weight, total, rank, conversion.relative_noise, generator)
            layer.weight.data = bases.contiguous(memory_format=memory_format_of(conv.weight))
    if conv.bias is not None:
        layer.bias = conv.bias
    return layer


@torch.no_grad()
def local_of(site: Site) -> Any:
    """A :class:`LocalConv2d` or 1-d likewise that has the convolution's kernel at each position.

    Raises:
        InputError: the weight is parametrized.
    """
    conv: Any = site.module
    if site.parametrized:
        raise InputError(
            f"{site.name!r} is parametrized, which a kernel for each position cannot be; give a "
            "rank, or remove the parametrization"
        )
    with drawing(conv, 0):
        layer: Any = local_class(len(site.input_size), low_rank=False)(
            **arguments_of(conv), input_size=site.size_argument
        )
    layer.weight.copy_(conv.weight.expand_as(layer.weight))
    layer.weight.requires_grad_(conv.weight.requires_grad)
    if conv.bias is not None:
        bias = conv.bias.reshape(-1, *[1] * len(site.input_size))
        layer.bias.copy_(bias.expand_as(layer.bias))
        layer.bias.requires_grad_(conv.bias.requires_grad)
    return layer


def _spread(
    weight: Tensor, total: float, rank: int, relative_noise: float, generator: Generator
) -> Tensor:
    """``W / total + delta_k`` one after another.

    ``delta_k`` has ``relative_noise`` times the root mean square of its filter, and where a filter
    is zero that of a fresh one: equal bases would stay equal for ever.

    Rounded to the dtype of the weight, the bases would have another sum. So each in turn takes as
    much of what is missing as it can hold; most often the first one can all.
    """
    dtype = weight.dtype
    weight = weight.detach().to(torch.promote_types(dtype, torch.float32))
    axes = tuple(range(1, weight.dim()))
    size = weight.square().mean(axes, keepdim=True).sqrt()
    size = torch.where(size > 0, size, math.sqrt(1 / weight[0].numel()))
    noise = torch.randn(rank, *weight.shape, generator=generator).to(weight)
    noise -= noise.mean(0)
    scale = relative_noise * math.sqrt(rank / max(rank - 1, 1))
    mean = weight / total
    bases = (mean + scale * size * noise / total).to(dtype)
    missing = (mean - bases).sum(0)
    for basis in bases:
        before = basis.to(weight)
        basis.copy_(before + missing)
        missing -= basis - before
    return bases.flatten(0, 1)


def _first_weight(layer: LowRankLocalConvNd) -> float:
    """The combining weight that every basis has, rounded as the layer rounds it."""
    tables = len(_logits(layer))
    logit = first_logit(layer.rank, tables)
    logits = tables * torch.full((layer.rank,), logit, dtype=layer.weight.dtype)
    return float(normalized(logits, layer.normalize, 0)[0])


def _logits(layer: LowRankLocalConvNd) -> list[nn.Parameter]:
    """The tables that are added up; of a gate the bias, all that a fresh one gives out."""
    names = ("row_logits", "column_logits", "map_logits", "gate.logits_bias")
    return [p for name, p in layer.named_parameters() if name in names]


def _spread_logits_(
    layer: LowRankLocalConvNd, conversion: Conversion, generator: Generator
) -> None:
    """Combining weights that differ by ``relative_noise`` and have sum 1 over the bases."""
    rank = conversion.rank
    tables = _logits(layer)
    # Under a softmax a relative change is one of the logits, otherwise one of the weights.
    scale = conversion.relative_noise / (1 if conversion.normalize == "softmax" else rank)
    for table in tables:
        noise = torch.randn(table.shape, generator=generator).to(table)
        table.copy_(1 / (rank * len(tables)) + scale * (noise - noise.mean(0)))
