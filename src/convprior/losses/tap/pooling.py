"""Which function calls end a feature map: global poolings, and the flattening that replaces one."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

_REDUCTIONS = frozenset(
    ("mean", "sum", "nanmean", "nansum", "median", "amax", "amin", "max", "min", "std", "var")
) | {"logsumexp", "norm", "vector_norm"}
_FLATTENINGS = frozenset(("flatten", "reshape", "view"))
_CONVOLUTIONS = frozenset(("conv2d", "conv3d"))
_TRANSPOSED = frozenset(("conv_transpose2d", "conv_transpose3d"))

Layout = Literal["channels first", "channels last"]


def ends_map(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
) -> Layout | None:
    """The layout of the feature map that this call ends, or None where it ends none.

    A call ends a map (N, C, H, W), with any number of spatial axes, where it

    - reduces over all spatial axes, whatever their lengths (also (N, H, W, C) over its middle),
    - is an adaptive pool to one position, or a mean pool whose window is the whole map (a maximum
      or power mean too, where that is larger than 2x2, the window of a stage),
    - flattens it to (N, C*H*W), or is a convolution of stride 1 as large as the map, which is a
      fully connected layer.

    Judging by the call and not by shapes finds the pooling of maps that are 1x1 before it, too.

    Source: our choice.
    """
    source = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    first = result[0] if isinstance(result, tuple) and result else result
    if source is None or not isinstance(first, Tensor) or source.dim() < 3 or first.dim() < 2:
        return None
    axes = source.dim()
    if name in _REDUCTIONS:
        axis = kwargs.get("dim", kwargs.get("axis", _axis_argument(name, args)))
        reduced = {a % axes for a in _integers(axis)}
        if reduced == set(range(2, axes)):
            return "channels first"
        return "channels last" if axes == 4 and reduced == {1, 2} else None
    if axes < 4:
        return None
    positions = first.shape[2:].numel() if first.dim() == axes else 0
    if name.startswith("adaptive_"):
        ends = positions == 1
    elif name.startswith("avg_pool"):
        ends = positions == 1 and source.shape[2:].numel() > 1
    elif name.startswith(("max_pool", "lp_pool")):
        window = _integers(_window(name, args, kwargs))
        size = tuple(source.shape[2:])
        ends = positions == 1 and source.shape[2:].numel() > 4
        ends = ends and window in (size, size[:1])
    elif name in _CONVOLUTIONS:
        ends = positions == 1 < source.shape[2:].numel()
        ends = ends and source.shape[2:] == _kernel(args, kwargs) and not _strided(args, kwargs)
    else:
        ends = name in _FLATTENINGS and first.dim() == 2 and len(first) == len(source)
    return "channels first" if ends else None


def revives_map(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call on a pooled tensor shows that the pooling was none of the global kind.

    Heads have 1x1 convolutions at most, or one along their channels; a larger kernel belongs to a
    next stage, whose maps are 1x1 because the image is small.
    """
    return name in _CONVOLUTIONS | _TRANSPOSED and max(_kernel(args, kwargs)) > 1


def _kernel(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Size:
    weight: Tensor = args[1] if len(args) > 1 else kwargs["weight"]
    return weight.shape[2:]


def _window(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    place = 2 if name.startswith("lp_pool") else 1
    return args[place] if len(args) > place else kwargs.get("kernel_size")


def _strided(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    stride = args[3] if len(args) > 3 else kwargs.get("stride", 1)
    return max(_integers(stride), default=1) > 1


def _axis_argument(name: str, args: tuple[Any, ...]) -> Any:
    place = 2 if name in ("norm", "vector_norm") else 1
    return args[place] if len(args) > place else None


def _integers(axis: Any) -> tuple[int, ...]:
    if isinstance(axis, int):
        return (axis,)
    whole = isinstance(axis, tuple | list) and all(isinstance(a, int) for a in axis)
    return tuple(axis) if whole else ()
