"""The filters of a network's convolutions, from the network, its weights by name, or a file."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from convprior.errors import InputError
from convprior.filters.selection import ConvLayer, Selection, select_convolutions

Source = nn.Module | Mapping[str, Tensor] | Tensor | str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class FilterBank:
    """The filters of one convolution.

    Attributes:
        name: of the layer.
        weight: (filters, channels of a filter, *kernel_size) on the CPU, finite, float32 or
            float64; also for transposed convolutions, which store it the other way round.
        kind: ``dense``, ``grouped``, ``depthwise`` or ``pointwise``; ``transposed`` in front of it
            where the layer is.
        stride: one an axis, None if unknown.
    """

    name: str
    weight: Tensor
    kind: str
    stride: tuple[int, ...] | None


def filter_banks(
    source: Source, include: Selection = None, exclude: Selection = None
) -> list[FilterBank]:
    """The convolutions of a network, in the order of the network, or of the names of a file.

    Args:
        source: a module (compiled, data-parallel and parametrized ones too); one weight; or weights
            by name, as a state dict or a safetensors file. Of the latter two, tensors of 3 to 5
            axes called ``*.weight`` are convolutions, which an ``nn.Bilinear`` then is too: strides
            are unknown, groups other than depthwise (one channel a filter, more than one filter)
            and transposition are not seen. A file keeps no order: its layers are sorted by name,
            numbers as numbers, which need not be their depth.
        include: names, shell patterns or, for a module, types; None means all.
        exclude: the same, taken away afterwards.

    Returns:
        One entry a weight; a weight tied between layers appears once, under its first name.

    Raises:
        InputError: there is no convolution, a rule matches none, weights are not finite, not real
            floating-point numbers or have no values (empty, lazy, meta device), or the file is no
            safetensors file.

    Source: our choice.
    """
    if isinstance(source, nn.Module):
        return [_of_layer(layer) for layer in select_convolutions(source, include, exclude)]
    weights = _named_weights(source)
    found = {_layer_name(n): t for n, t in weights.items() if _is_filter(n, t.ndim)}
    for name in weights:
        if ".parametrizations.weight." in f".{name}" or name.endswith(("weight_g", "weight_v")):
            raise InputError(
                f"{name!r} is a part of a parametrized weight, which only its module can put "
                "together; give the module"
            )
    if not found:
        where = f"{source} has" if isinstance(source, str | os.PathLike) else "these weights have"
        raise InputError(
            f"{where} no convolution: no tensor named '*.weight' with 3 to 5 axes; give the "
            "weights of a convolutional network"
        )
    names = _chosen(list(found), include, exclude)
    return [_of_tensor(name, found[name]) for name in names]


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file that can be filters or parts of them; others stay unread.

    They are sorted by name, numbers as numbers.

    Raises:
        InputError: there is no such file, or it is no whole safetensors file.
    """
    if not Path(path).exists():
        raise InputError(f"there is no file or folder {str(path)!r}; check the path")
    if Path(path).is_dir():
        raise InputError(f"{str(path)!r} is a folder; give the path of a safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            names = sorted(file.keys(), key=_natural)
            shapes = {name: file.get_slice(name).get_shape() for name in names}
            wanted = [name for name in names if 3 <= len(shapes[name]) <= 5]
            return {name: file.get_tensor(name) for name in wanted}
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"could not read {path} as a safetensors file ({error}); give an undamaged one, or "
            "save the weights with safetensors.torch.save_file"
        ) from error


def _of_layer(layer: ConvLayer) -> FilterBank:
    module, weight = layer.module, layer.module.weight.detach()
    if transposed := isinstance(module, _ConvTransposeNd):
        # (in, out/groups, ...) -> (groups, in/groups, out/groups, ...) -> output filters first.
        grouped = weight.reshape(module.groups, -1, *weight.shape[1:])
        weight = grouped.transpose(1, 2).flatten(0, 1)
    if all(size == 1 for size in module.kernel_size):
        kind = "pointwise"
    elif module.groups == 1:
        kind = "dense"
    else:
        kind = "depthwise" if module.groups == module.in_channels else "grouped"
    kind = f"transposed {kind}" if transposed else kind
    return FilterBank(layer.name, _checked(layer.name, weight), kind, tuple(module.stride))


def _of_tensor(name: str, weight: Tensor) -> FilterBank:
    weight = _checked(name, weight.detach())
    if weight[0, 0].numel() == 1:
        kind = "pointwise"
    else:
        kind = "depthwise" if weight.shape[1] == 1 and len(weight) > 1 else "dense"
    return FilterBank(name, weight, kind, None)


def _named_weights(source: Source) -> dict[str, Tensor]:
    if isinstance(source, str | os.PathLike):
        return read_weights(source)
    if isinstance(source, Mapping):
        return _untied(source)
    if not isinstance(source, Tensor):
        raise InputError(
            f"{type(source).__name__} is no source of filters; give a convolution, its weight, a "
            "network, a state dict, or the path of a safetensors file"
        )
    if not _is_filter("weight", source.ndim):
        raise InputError(
            f"a tensor of shape {tuple(source.shape)} is no convolution weight "
            "(out, in/groups, *kernel_size); give one convolution or its weight"
        )
    return {"weight": source}


def _checked(name: str, weight: Tensor) -> Tensor:
    label = name or "the convolution"
    if weight.is_meta or not weight.numel():
        raise InputError(f"the weight of {label!r} holds no values; load or initialize it first")
    weight = _floats(label, weight.cpu())
    if not bool(torch.isfinite(weight).all()):
        bad = int((~torch.isfinite(weight)).sum())
        raise InputError(
            f"{bad} of {weight.numel()} weights of {label!r} are not finite; give an undamaged "
            "network, or exclude this layer"
        )
    return weight


def _floats(label: str, weight: Tensor) -> Tensor:
    """In float64 where the weight is, in float32 otherwise."""
    try:
        if weight.is_floating_point() and weight.layout == torch.strided:
            return weight if weight.dtype == torch.float64 else weight.to(torch.float32)
    except NotImplementedError:  # a packed type such as float4
        pass
    raise InputError(
        f"the weight of {label!r} has dtype {weight.dtype} and layout {weight.layout}; give dense "
        "real floating-point weights"
    )


def _untied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without filters that lie in the same memory as earlier ones."""
    first: dict[tuple[object, ...], str] = {}
    for name, tensor in weights.items():
        if not isinstance(name, str):
            raise InputError(f"{name!r} is no name of a weight; give a network's state_dict()")
        if not isinstance(tensor, Tensor):
            raise InputError(
                f"{name!r} is a {type(tensor).__name__} and no tensor; give a network, its "
                "state_dict() or a safetensors file"
            )
        dense = tensor.layout == torch.strided and not tensor.is_meta
        shared = dense and _is_filter(name, tensor.ndim)
        place = (tensor.data_ptr(), tensor.shape, tensor.stride()) if shared else ()
        first.setdefault(place if any(place[:1]) else (name,), name)
    return {name: weights[name] for name in first.values()}


def _layer_name(key: str) -> str:
    name = key.removeprefix("module.").replace("_orig_mod.", "").removesuffix("weight")
    return name.removesuffix(".")


def _natural(name: str) -> tuple[object, ...]:
    """A key that sorts names with their numbers as numbers: ``layer.9`` before ``layer.10``."""
    parts = re.split("([0-9]+)", name)
    # By length, then as text: the order of the numbers, however long they are.
    numbers = [(len(number), number) for number in (part.lstrip("0") for part in parts[1::2])]
    return parts[0], [*zip(numbers, parts[2::2], strict=True)], name


def _is_filter(key: str, axes: int) -> bool:
    return (key == "weight" or key.endswith(".weight")) and 3 <= axes <= 5


def _chosen(names: list[str], include: Selection, exclude: Selection) -> list[str]:
    wanted = set(names) if include is None else _hits(names, include)
    left = [name for name in names if name in wanted - _hits(names, exclude)]
    if not left:
        raise InputError("include and exclude leave no convolution; choose others")
    return left


def _hits(names: list[str], selection: Selection) -> set[str]:
    found = set()
    for rule in (selection,) if isinstance(selection, str | type) else tuple(selection or ()):
        if not isinstance(rule, str):
            raise InputError(f"weights by name have no types, so {rule.__name__} fits none of them")
        own = {n for n in names if n.startswith(f"{rule}.") or fnmatchcase(n, rule) or n == rule}
        if not own:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            shown = ", ".join(names[:5]) + more
            raise InputError(f"{rule!r} matches no convolution; there are {shown}")
        found |= own
    return found
