"""The way back: local layers that are convolutions become ``nn.Conv2d`` again."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from convprior.errors import InputError
from convprior.filters.selection import unwrap
from convprior.local.layers.local_conv import LocalConvNd
from convprior.local.layers.low_rank import LowRankLocalConvNd
from convprior.local.learned.mixture import in_float64, parts_of, relative
from convprior.local.surgery.replacement import (
    arguments_of,
    carry_hooks,
    copied,
    memory_format_of,
    network_to_change,
    parameters_outside,
    replace_layers,
)

LocalLayer = LowRankLocalConvNd | LocalConvNd


def delocalize(model: nn.Module, *, tolerance: float = 1e-6, inplace: bool = False) -> nn.Module:
    """Turns every local layer of a network into the convolution it is.

    The inverse of :func:`localize` before training, and of training that left the layers
    invariant. Hooks, modes and ``requires_grad`` are kept, and so are ties of weights and biases; a
    parametrized weight becomes a plain one. A bias that stays what it is stays the same parameter.

    Args:
        model: of a compiled or data-parallel one the network inside is taken.
        tolerance: as in :func:`to_conv`.
        inplace: change ``model`` itself.

    Returns:
        The network of convolutions: ``model`` if ``inplace``, else a copy, without wrappers.

    Raises:
        InputError: there is no local layer, one is no convolution, or layers with a common weight
            or bias have become different convolutions. Nothing has been changed then.

    Source: our choice.
    """
    network = network_to_change(model, "delocalize") if inplace else copied(unwrap(model))
    found = {name: m for name, m in network.named_modules() if isinstance(m, LocalLayer)}
    if not found:
        raise InputError("no layer would change: the network has no local layer")
    new: dict[nn.Module, Any] = {}
    for name, layer in found.items():
        try:
            new[layer] = to_conv(layer, tolerance)
        except InputError as error:
            raise InputError(f"{name!r}: {error}") from None
    _tie(network, found, new, tolerance)
    replace_layers(network, new, carry_hooks)
    return model if inplace else new.get(network, network)


@torch.no_grad()
def _tie(
    network: nn.Module, found: dict[str, LocalLayer], new: dict[nn.Module, Any], tolerance: float
) -> None:
    """Ties in the convolutions what is tied in the local layers.

    Raises:
        InputError: two convolutions differ by more than the tolerance in what would be tied, or a
            module that stays has the bias too, which would become another one.
    """
    outside = parameters_outside(network, found.values())
    first: dict[int, tuple[str, nn.Parameter]] = {}
    for name, layer in found.items():
        conv = new[layer]
        for kind in ("weight", "bias"):
            old, parameter = layer._parameters.get(kind), getattr(conv, kind)
            if old is None or parameter is None:
                continue
            if old.shape == parameter.shape and torch.equal(old, parameter):
                setattr(conv, kind, old)
            elif id(old) in outside:
                raise InputError(
                    f"{name!r} shares its {kind} with {outside[id(old)]} and needs another one as "
                    "a convolution; untie it"
                )
            other, tied = first.setdefault(id(old), (name, getattr(conv, kind)))
            if not _close(parameter, tied, tolerance):
                raise InputError(
                    f"{other!r} and {name!r} share their {kind} and have become convolutions with "
                    "different ones; untie it"
                )
            setattr(conv, kind, tied)


def _close(first: Tensor, second: Tensor, tolerance: float) -> bool:
    """Whether tensors of one shape differ by at most that much, relative to the larger."""
    size = max(float(first.abs().max()), float(second.abs().max()))
    eps = torch.finfo(first.dtype).eps
    return float((first - second).abs().max()) <= max(tolerance, eps) * size


@torch.no_grad()
def to_conv(layer: LocalLayer, tolerance: float = 1e-6) -> nn.Conv1d | nn.Conv2d:
    """The convolution that a local layer is.

    Args:
        layer: of one or two dimensions.
        tolerance: what the kernel of a position may differ by from their mean, relative to it,
            and the spatial bias from its mean, relative to the largest bias or 1.

    Returns:
        A convolution with parameters of its own: the mean kernel, and the bias with the mean
        spatial bias.

    Raises:
        InputError: kernels or spatial bias differ by more; the message says how far.

    Example:
        >>> layer = LowRankLocalConv2d(3, 8, 3, input_size=16, rank=1)
        >>> to_conv(layer)
        Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))

    Source: our choice.
    """
    kernel, distance = _mean_kernel(layer)
    if not distance <= tolerance:
        raise InputError(
            f"the kernels of this layer differ over the positions by up to {distance:.2g} of their "
            f"mean, more than tolerance={tolerance:g}: it is no convolution; a larger tolerance "
            "takes the mean"
        )
    bias, difference = _mean_bias(layer)
    largest = 1.0 if bias is None else max(1.0, float(bias.abs().max()))
    if not difference <= tolerance * largest:
        raise InputError(
            f"the spatial bias of this layer differs over the positions by up to {difference:.2g}, "
            f"more than tolerance={tolerance:g}: it is no convolution; a larger tolerance takes "
            "the mean"
        )
    kind = nn.Conv2d if len(layer.input_size) == 2 else nn.Conv1d
    arguments = arguments_of(layer) | {"bias": bias is not None}
    conv: nn.Conv1d | nn.Conv2d = skip_init(kind, **arguments)  # type: ignore[no-untyped-call]
    memory_format = memory_format_of(layer.weight)
    conv.weight.data = kernel.to(conv.weight).contiguous(memory_format=memory_format)
    learns = any(p.requires_grad for name, p in layer.named_parameters() if name != "bias")
    conv.weight.requires_grad_(learns)
    if bias is not None and conv.bias is not None:
        conv.bias.copy_(bias)
        conv.bias.requires_grad_(learns if layer.bias is None else layer.bias.requires_grad)
    return conv.train(layer.training)


def _mean_kernel(layer: LocalLayer) -> tuple[Tensor, float]:
    """The mean kernel in float64, and how far the farthest is from it, relative to it."""
    if isinstance(layer, LocalConvNd):
        kernels = in_float64(layer.weight).flatten(0, len(layer.input_size) - 1)
        # Differences from one kernel: nothing rounds where all are equal.
        difference = kernels - kernels[:1]
        mean, difference = kernels[0] + difference.mean(0), difference - difference.mean(0)
        farthest = difference.flatten(1).square().sum(1).max()
        return mean, relative(farthest, mean.square().sum())
    parts = parts_of(layer)
    weights = parts.weights
    if weights is None:
        if layer.normalize != "softmax":
            raise InputError("the weights of this layer depend on the input: it is no convolution")
        # Any mixture is a convex one: at worst a position takes one basis alone.
        weights = torch.eye(layer.rank).to(parts.bases)
        weights = torch.cat([weights.sum(0, keepdim=True), weights])
    mean_weights = weights[:, 0] + (weights - weights[:, :1]).mean(1)
    difference = weights - mean_weights[:, None]
    gram = parts.bases @ parts.bases.T
    farthest = (difference * (gram @ difference)).sum(0).max()
    kernel = (mean_weights @ parts.bases).view(-1, *layer.weight.shape[1:])
    return kernel, relative(farthest, kernel.square().sum())


def _mean_bias(layer: LocalLayer) -> tuple[Tensor | None, float]:
    """The bias (F,) in float64, or None, and how far that of a position is from it."""
    if isinstance(layer, LocalConvNd):
        bias = None if layer.bias is None else in_float64(layer.bias).flatten(1)
    else:
        bias = None if layer.bias is None else in_float64(layer.bias)[:, None]
        spatial = parts_of(layer).spatial_bias
        if spatial is not None:
            bias = spatial.expand(layer.out_channels, -1) if bias is None else bias + spatial
    if bias is None:
        return None, 0.0
    difference = bias - bias[:, :1]
    mean = bias[:, 0] + difference.mean(1)
    farthest = float((difference - difference.mean(1, keepdim=True)).abs().max())
    needed = layer.bias is not None or bool(mean.any())
    return (mean if needed else None), farthest
