"""Local connectivity as functions: an input, kernels, and how they are mixed over positions."""

import torch
from torch import Tensor, nn

from convprior.errors import InputError
from convprior.local import paths
from convprior.local.bias import add_bias
from convprior.local.geometry import Geometry, Padding, PaddingMode, Pair


def low_rank_local_conv2d(
    input: Tensor,  # noqa: A002 - the name torch.nn.functional.conv2d has
    bases: Tensor,
    weights: Tensor,
    bias: Tensor | None = None,
    spatial_bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    *,
    path: str = "auto",
) -> Tensor:
    r"""K filter banks mixed with weights that depend on the position.

    ``y[n, :, i, j] = sum_k w_k(i, j) (input * B_k)[n, :, i, j] + bias + spatial_bias(i, j)``.

    Under autocast ``input`` and ``bases`` are taken in its dtype and so is the result, while the
    weights stay as they are.

    Args:
        input: (N, C, H, W) or (C, H, W).
        bases: (K, F, C / groups, kh, kw).
        weights: (K, H', W'); (K, H', 1) or (K, 1, W') where they depend on one axis alone;
            (N, K, H', W') where every sample has its own.
        bias: (F,).
        spatial_bias: broadcastable to (H', W'), shared by the channels.
        stride: as in ``nn.Conv2d``.
        padding: as in ``nn.Conv2d``.
        dilation: as in ``nn.Conv2d``.
        groups: as in ``nn.Conv2d``.
        padding_mode: as in ``nn.Conv2d``.
        path: the order of evaluation, "auto" for the cheapest.

    Returns:
        (N, F, H', W') or (F, H', W').

    Raises:
        InputError: shapes do not fit.

    Source: Elsayed et al., "Revisiting Spatial Invariance with Low-Rank Local Connectivity"
    (ICML 2020), section 2.
    """
    size = (input.shape[-2], input.shape[-1])
    geometry = Geometry.of_conv(size, bases.shape[-2:], stride, padding, dilation, groups)
    return mix(input, bases, weights, bias, spatial_bias, geometry, padding_mode, path)


def local_conv2d(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    *,
    path: str = "auto",
) -> Tensor:
    """A convolution whose kernel is another one at each position.

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (H', W', F, C / groups, kh, kw).
        bias: (F, H', W').
        stride: as in ``nn.Conv2d``.
        padding: as in ``nn.Conv2d``.
        dilation: as in ``nn.Conv2d``.
        groups: as in ``nn.Conv2d``.
        padding_mode: as in ``nn.Conv2d``.
        path: the order of evaluation, "auto" for the cheapest.

    Returns:
        (N, F, H', W') or (F, H', W').

    Raises:
        InputError: shapes do not fit.
    """
    size = (input.shape[-2], input.shape[-1])
    geometry = Geometry.of_conv(size, weight.shape[-2:], stride, padding, dilation, groups)
    return gather(input, weight, bias, geometry, padding_mode, path)


def mix(
    x: Tensor,
    bases: Tensor,
    weights: Tensor,
    bias: Tensor | None,
    spatial_bias: Tensor | None,
    geometry: Geometry,
    padding_mode: str,
    path: str,
) -> Tensor:
    """:func:`low_rank_local_conv2d` with its geometry at hand."""
    if x.dim() == 3:
        x = x.unsqueeze(0)
        return mix(x, bases, weights, bias, spatial_bias, geometry, padding_mode, path).squeeze(0)
    _check(x, bases, tuple(weights.shape[-2:]), geometry, broadcast=True)
    x, bases = _in_one_dtype(x, bases)
    x, geometry = _padded(x, geometry, padding_mode)
    y = paths.mix(x, bases, weights, geometry, path)
    return add_bias(y, bias, spatial_bias)


def gather(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    padding_mode: str,
    path: str,
) -> Tensor:
    """:func:`local_conv2d` with its geometry at hand."""
    if x.dim() == 3:
        return gather(x.unsqueeze(0), weight, bias, geometry, padding_mode, path).squeeze(0)
    _check(x, weight, tuple(weight.shape[:2]), geometry, broadcast=False)
    x, weight = _in_one_dtype(x, weight)
    x, geometry = _padded(x, geometry, padding_mode)
    y = paths.gather(x, weight, geometry, path)
    return add_bias(y, bias, None)


def _check(
    x: Tensor, kernels: Tensor, positions: tuple[int, ...], geometry: Geometry, *, broadcast: bool
) -> None:
    channels = kernels.shape[-3] * geometry.groups
    if x.shape[1] != channels:
        raise InputError(
            f"the input has {x.shape[1]} channels and the kernels take {channels} "
            f"({kernels.shape[-3]} in each of {geometry.groups} groups); give them the same number"
        )
    for given, wanted in zip(positions, geometry.output_size, strict=True):
        if given != wanted and not (broadcast and given == 1):
            raise InputError(
                f"there are weights for {positions} positions and the output is "
                f"{geometry.output_size}; give one for each"
            )


def _in_one_dtype(x: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
    device = x.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if autocast and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        return x.to(dtype), kernels.to(dtype)
    if x.dtype != kernels.dtype:
        raise InputError(
            f"the input is {x.dtype} and the kernels are {kernels.dtype}; convert one of them"
        )
    return x, kernels


def _padded(x: Tensor, geometry: Geometry, mode: str) -> tuple[Tensor, Geometry]:
    if mode == "zeros":
        return x, geometry
    top, bottom, left, right = geometry.padding
    return nn.functional.pad(x, (left, right, top, bottom), mode=mode), geometry.already_padded()
